"""The demo's machinery on a tiny random model: everything but the pictures' content is as in `dev.py demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atedm_core.unet.schedule import DEFAULT_RATIO
from demo import pictures, report, timing
from demo.run import Settings, parse_arguments, run
from demo.workflow import Loader, Sampling, picture
from devtools.layout import current_host

TINY_PACK = Path(__file__).resolve().parent / "tiny_pack"
SAMPLING = Sampling(steps=5, size=128)
PROMPTS = ("a small red star in the center", "fog over a harbour")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a short demo and its report."""
    out = tmp_path_factory.mktemp("demo-out")
    (out / "9-full.png").touch()  # of an earlier run
    loader = Loader("TinyCheckpoint", {"kind": "sdxl", "seed": 0})
    settings = Settings(PROMPTS, repeats=1, sampling=SAMPLING, loader=loader, packs=[TINY_PACK], out=out)
    return out, run(settings, current_host())


pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_leaves_every_picture_and_nothing_of_an_earlier_run(result: tuple[Path, dict[str, Any]]) -> None:
    names = {path.name for path in result[0].glob("*.png")}
    single = {f"{number}-{kind}.png" for number in (1, 2) for kind in ("full", "pruned")}
    assert names == {*single, "side_by_side.png", "kept_tokens.png"}


def test_pruned_pictures_differ_and_the_report_says_how_far(result: tuple[Path, dict[str, Any]]) -> None:
    out, found = result
    for number, entry in enumerate(found["pictures"], 1):
        full, pruned = (Image.open(out / f"{number}-{kind}.png") for kind in ("full", "pruned"))
        assert full.size == pruned.size == (128, 128)
        assert entry["psnr_db"] == pictures.psnr(full, pruned)
        assert entry["psnr_db"] is not None


def test_counts_what_the_run_kept(result: tuple[Path, dict[str, Any]]) -> None:
    cost = result[1]["cost"]
    assert cost["share_of_tokens_kept"] == pytest.approx(1 - DEFAULT_RATIO, abs=0.01)
    assert 0 < cost["unet_flops_saved"] < cost["attention_flops_saved"] < 1
    assert cost["unet_flops_full"] > cost["attention_flops_full"]
    blocks = result[1]["blocks"]
    assert sum(block["tokens_kept"] for block in blocks) == cost["tokens_kept"]
    # 2 prompts, 5 steps, 2 conditions
    assert {block["calls"] for block in blocks} == {20}


def test_judges_prompts_of_the_demo_models_world_only(result: tuple[Path, dict[str, Any]]) -> None:
    judged = [entry["full_is_right"] for entry in result[1]["pictures"]]
    assert judged[0] in (True, False)
    assert judged[1] is None


def test_text_and_json_agree(result: tuple[Path, dict[str, Any]]) -> None:
    out, found = result
    assert json.loads((out / "summary.json").read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    text = (out / "summary.txt").read_text(encoding="utf-8")
    assert f"{found['times']['speedup_median']:.2f}x" in text
    assert all(prompt in text for prompt in PROMPTS)


def test_the_full_picture_is_made_without_the_pack() -> None:
    kinds = [node["class_type"] for node in picture(Loader(), SAMPLING, "x", 1).values()]
    assert not [kind for kind in kinds if kind.startswith("ATEDM") and kind != "ATEDMDemoLoader"]
    pruned = picture(Loader(), SAMPLING, "x", 1, 0.5)
    assert pruned["sample"]["inputs"]["model"] == ["prune", 0]
    assert pruned["prune"]["inputs"]["prune_ratio"] == 0.5


def test_times_are_compared_in_pairs() -> None:
    times = timing.Times((2.0, 4.0, 9.0), (1.0, 4.0, 3.0))
    assert times.ratios == [2.0, 1.0, 3.0]
    assert times.summary()["speedup_median"] == 2.0


def test_psnr_and_difference() -> None:
    gray = Image.fromarray(np.full((4, 4, 3), 100, np.uint8))
    other = Image.fromarray(np.full((4, 4, 3), 110, np.uint8))
    assert pictures.psnr(gray, gray) is None
    assert pictures.psnr(gray, other) == pytest.approx(28.13, abs=0.01)
    assert pictures.mean_difference(gray, other) == 10
    assert report.distances(gray, gray) == {"psnr_db": None, "mean_abs_difference": 0}


def test_maps_show_kept_tokens_in_their_place() -> None:
    black = Image.new("RGB", (20, 20))
    shown = np.asarray(pictures.kept_map(black, (2, 2), [1.0, 0.0, 0.0, 0.0]), int).sum(-1)
    assert shown[:10, :10].min() > shown[10:, :].max()
    assert shown[:10, :10].min() > shown[:, 10:].max()


def test_the_command_line_reaches_the_settings(tmp_path: Path) -> None:
    line = ["--prompt", "a", "--prompt", "b", "--ratio", "0.5", "--steps", "3", "--size", "512", "--out", str(tmp_path)]
    given = parse_arguments(line)
    assert list(given.prompts) == ["a", "b"]
    assert (given.ratio, given.sampling.steps, given.sampling.size, given.out) == (0.5, 3, 512, tmp_path)
    assert parse_arguments([]) == Settings()
