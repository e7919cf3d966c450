"""A small, fast slice of the fidelity lab: a change that worsens pictures beyond noise fails here.

Four captions of the confirming set, drawn by the command itself on the demo model. Every threshold stands beside what
was measured when it was set; pictures are deterministic, and rounding on another processor moves a median by tenths
of a dB.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab.cases import Sampling
from benchmarks.lab.store import Spot, Store
from benchmarks.lab.unet import fidelity, report
from benchmarks.lab.unet.cases import Case, Pruning
from benchmarks.lab.unet.catalogue import BASE, PAPER, by_attention
from devtools.layout import current_host

pytestmark = [pytest.mark.host, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "benchmarks.lab.unet.fidelity", "--quick", "--out"]


def run(out: Path, repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**current_host().environment(), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*COMMAND, str(out), *arguments], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    out = tmp_path_factory.mktemp("fidelity")
    done = run(out, repository)
    assert done.returncode == 0, done.stderr
    return out


def pictures(folder: Path, case: Case) -> list[dict[str, Any]]:
    found = Store(folder / "shapes", "test").measures(Spot(case.key, Case(BASE).key, "confirm", 0))
    assert len(found) == 4
    return found


def psnr(folder: Path, pruning: Pruning) -> float:
    return statistics.median(one["psnr"] for one in pictures(folder, Case(BASE, pruning)))


def test_the_defaults_stay_near_the_unpruned_pictures(folder: Path) -> None:
    # measured 68.4 dB; 65.9 with `update` in place of regression, 65.1 with all blocks alike
    assert psnr(folder, Pruning()) > 67.0


def test_the_defaults_stay_far_nearer_than_the_papers_recipe(folder: Path) -> None:
    # measured 38.2 dB
    assert psnr(folder, Pruning()) - psnr(folder, PAPER) > 20.0


def test_the_defaults_stay_nearer_than_the_controls(folder: Path) -> None:
    # random tokens measured 9.6 dB further away, the even grid 6.5 dB, with the defaults' ratio in every block
    assert psnr(folder, Pruning()) > psnr(folder, by_attention("random")) + 3.0
    assert psnr(folder, Pruning()) > psnr(folder, by_attention("even grid")) + 3.0


def test_every_scene_is_still_what_the_unpruned_run_shows(folder: Path) -> None:
    found = pictures(folder, Case(BASE, Pruning()))
    assert all(one["same_scene"] for one in found)
    assert all(one["reference_right"] for one in found)


def test_as_much_is_saved_as_planned(folder: Path) -> None:
    (share,) = {round(one["sdxl_share"], 3) for one in pictures(folder, Case(BASE, Pruning()))}
    # the closed formula gives 64.7 %; on 64 tokens ratios come to whole tokens, a little more of them
    assert share == pytest.approx(0.645, abs=0.001)


def test_fewer_steps_are_compared_with_the_full_run(folder: Path) -> None:
    found = pictures(folder, Case(Sampling(16)))
    assert {one["share"] for one in found} == {0.8}
    assert all(45 < one["psnr"] < 65 for one in found)


def test_a_second_run_draws_nothing_again(folder: Path, repository: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.npz")}
    assert len(before) == 6
    done = run(folder, repository)
    assert done.returncode == 0, done.stderr
    assert "defaults" in done.stdout
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.npz")} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--groups", "nonsense"), "no group is called nonsense"),
        (("--captions", "0"), "--captions is 0"),
        (("--workers", "0"), "--workers is 0"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, repository: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(tmp_path, repository, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_drawn(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path / "file", repository)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr


def test_results_that_cannot_be_written_are_said_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(report, "FOLDER", tmp_path / "file")
    monkeypatch.setattr(fidelity.Session, "open", lambda: pytest.fail("the model was loaded"))
    assert fidelity.main(["--groups", "main", "--out", str(tmp_path / "out")]) == 1
    assert f"{tmp_path / 'file'} cannot be written" in capsys.readouterr().err
