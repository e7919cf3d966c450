"""The paper's table end to end: a real ComfyUI, the demo model, ToMe, the paper's recipe and the pack's defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_paper_table import SDXL_NAMES, safetensors

from benchmarks.checkpoint import quality
from benchmarks.checkpoint.checkpoint import main
from benchmarks.checkpoint.checkpoint_file import inspect
from benchmarks.checkpoint.quality import pixels
from benchmarks.checkpoint.servers import own_server
from demo.store import DEFAULT_FILE
from devtools.layout import current_host

pytestmark = pytest.mark.slow
CAPTIONS = "a large red circle in the upper left on a blue background\na small pink heart at the bottom\n"


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is SDXL by its header and holds nothing."""
    return safetensors(tmp_path_factory.mktemp("my models") / "hollow.safetensors", SDXL_NAMES)


@pytest.fixture(scope="module")
def address(hollow: Path) -> Iterator[str]:
    """The server that the command starts where none is given."""
    with own_server(current_host(), inspect(hollow), hollow.with_suffix(".log")) as started:
        yield started


def test_a_checkpoint_outside_the_server_is_seen_and_a_bad_one_told(
    address: str, hollow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(CAPTIONS, encoding="utf-8")
    given = [hollow, "--prompts", prompts, "--out", tmp_path / "out", "--server", address]
    assert main([str(one) for one in given]) == 1
    assert f"{address} cannot use the checkpoint hollow.safetensors: The workflow failed" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.png"))


def test_draws_resumes_and_compares(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "find_spec", lambda name: None)  # or weights would be fetched
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text(CAPTIONS, encoding="utf-8")

    def run(*rows: str) -> dict[str, dict[str, float]]:
        given = [str(DEFAULT_FILE), "--prompts", str(prompts), "--out", str(out), "--server", address]
        assert main([*given, "--steps", "4", "--rows", *rows]) == 0
        lines = json.loads((out / "results.json").read_text(encoding="utf-8"))["lines"]
        return {line["id"]: line for line in lines}

    assert set(run("paper-c")) == {"full", "paper-c"}
    first = {file: (file.stat().st_mtime_ns, pixels(file)) for file in out.glob("pictures/*/*.png")}
    assert len(first) == 4
    again = out / "pictures" / "paper-c" / "00001-1.png"
    again.unlink()
    results = run("tome-c", "paper-c", "pack-c")
    assert [line["pictures"] for line in results.values()] == [2] * 4
    for file, (time, picture) in first.items():
        assert picture.shape == (256, 256, 3)
        assert (file.stat().st_mtime_ns == time) == (file != again)
        assert np.array_equal(pixels(file), picture)
    # one that changes nothing would come to 80 dB, another picture to less than 15
    assert all(15 < results[row]["psnr"] < 60 for row in ("tome-c", "paper-c", "pack-c"))
    assert results["pack-c"]["psnr"] > results["paper-c"]["psnr"]
    assert "This is not SDXL at 1024 px" in (out / "table.md").read_text(encoding="utf-8")
