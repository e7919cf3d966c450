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
from demo.likeness import mean_difference, psnr, ssim
from demo.run import PROMPTS, Settings, own_base, parse_arguments, run, time_sdxl
from demo.ways import FULL, Way, fewer_steps, methods, recorded, saved_in, workflow
from demo.workflow import Loader, Sampling
from devtools.graph import to_api
from devtools.layout import Host, current_host
from devtools.server import Server

TINY_PACK = Path(__file__).resolve().parent / "tiny_pack"
SAMPLING = Sampling(steps=8, size=128, batch=2)
TINY = ("a small red star in the center", "fog over a harbour")
LOADER = Loader("TinyCheckpoint", {"kind": "sdxl", "seed": 0})
WAYS = ("full", "at-edm", "at-edm-steps", "auto", "auto-steps")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a short demo and its report."""
    out = tmp_path_factory.mktemp("demo-out")
    (out / "pictures").mkdir()
    (out / "pictures" / "9-1-full.png").touch()  # of an earlier run
    (out / "mine.txt").touch()
    settings = Settings(TINY, sampling=SAMPLING, loader=LOADER, sdxl=False, packs=[TINY_PACK], out=out)
    return out, run(settings, current_host())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As `dev.py host --demo-model` starts one, with the tiny models too."""
    found = current_host()
    with own_base([TINY_PACK]) as base:
        log = tmp_path_factory.mktemp("log") / "server.log"
        with Server(Host(found.comfyui, found.python, base), log, cpu=True, threads=1) as running:
            yield running


pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_leaves_every_picture_and_nothing_of_an_earlier_run(result: tuple[Path, dict[str, Any]]) -> None:
    out, _ = result
    names = {path.name for path in (out / "pictures").glob("*.png")}
    assert names == {f"{row}-{index}-{way}.png" for row in (1, 2) for index in (1, 2) for way in WAYS}
    assert {path.name for path in out.glob("*.png")} == {"side_by_side.png", "kept_tokens.png"}
    assert (out / "mine.txt").exists()


def test_faster_pictures_differ_and_the_report_says_how_far(result: tuple[Path, dict[str, Any]]) -> None:
    out, found = result
    for name in WAYS[1:]:
        pairs = [
            [Image.open(out / "pictures" / f"{row}-{index}-{way}.png") for way in ("full", name)]
            for row in (1, 2)
            for index in (1, 2)
        ]
        assert all(one.size == (128, 128) for pair in pairs for one in pair)
        (way,) = (way for way in found["ways"] if way["name"] == name)
        assert way["psnr_db"] == pytest.approx(np.median([psnr(*pair) for pair in pairs]))
        assert way["ssim"] == pytest.approx(np.median([ssim(*pair) for pair in pairs]))
        assert way["ssim"] < 1


def test_says_what_each_way_costs(result: tuple[Path, dict[str, Any]]) -> None:
    found = result[1]
    ways = {way["name"]: way for way in found["ways"]}
    assert list(ways) == list(WAYS)
    assert ways["full"]["flops_share"] == ways["full"]["speed_up"] == 1
    assert 0 < ways["at-edm"]["flops_share"] < 1
    assert 0 < ways["auto"]["flops_share"] < 1
    for name in ("at-edm", "auto"):
        control = ways[f"{name}-steps"]
        assert control["control_of"] == name
        assert ways[name]["flops_share"] <= control["flops_share"] < ways[name]["flops_share"] + 1 / SAMPLING.steps
    assert all(way["seconds"] > 0 and way["rounds"] == 2 for way in ways.values())
    assert [block["share_kept"] for block in found["blocks"]] == pytest.approx([1 - DEFAULT_RATIO] * 11, abs=0.05)


def test_text_and_json_agree_and_the_speed_up_comes_last(result: tuple[Path, dict[str, Any]]) -> None:
    out, found = result
    assert json.loads((out / "summary.json").read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    text = (out / "summary.txt").read_text(encoding="utf-8")
    ways = {way["name"]: way for way in found["ways"]}
    assert "Measured on this machine" in text
    last = text.rstrip().splitlines()[-1]
    assert last.startswith("Speed-up measured here:")
    assert all(f"{ways[name]['speed_up']:.2f}x with" in last for name in ("at-edm", "auto"))


def test_sdxl_is_part_of_the_last_line(result: tuple[Path, dict[str, Any]]) -> None:
    sdxl = {"size": 1024, "dtype": "float16", "device": "a device", "seconds_full": 2.0, "seconds_pruned": 1.25}
    sdxl |= {"speed_up": 1.6, "flops_predict": 1.5558, "rounds": 1, "threads": None}
    text = report.as_text({**result[1], "sdxl": sdxl})
    assert f"2 s in full, 1.25 s with AT-EDM at {DEFAULT_RATIO:g}: 1.60x as fast" in text
    assert "where FLOPs predict 1.56x\n(from one round; random" in text
    assert "float16 on a device" in text
    on_cpu = report.as_text({**result[1], "sdxl": {**sdxl, "rounds": 3, "threads": 2}})
    assert "(processor time over 2 threads, medians of 3 rounds;" in on_cpu
    assert text.rstrip().endswith("a step of SDXL 1.60x with AT-EDM")


def test_a_picture_dropped_into_comfyui_draws_itself_again(result: tuple[Path, dict[str, Any]], server: Server) -> None:
    definitions = server.get("/object_info")
    for way in ("at-edm", "auto"):
        shown = [Image.open(result[0] / "pictures" / f"1-{index}-{way}.png") for index in (1, 2)]
        prompt, saved = saved_in(shown[0])
        assert to_api(saved, definitions) == prompt, "what is seen after dropping it is not what was queued"
        outputs = server.run(prompt)["outputs"]
        (images,) = (found["images"] for found in outputs.values() if "images" in found)
        for picture, again in zip(shown, images, strict=True):
            (server.host.base / "again.png").write_bytes(server.view(again))
            drawn = Image.open(server.host.base / "again.png").convert("RGB")
            assert np.array_equal(np.asarray(drawn), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("model", list(PROMPTS))
def test_workflows_of_the_bundled_models_queue(server: Server, model: str) -> None:
    definitions = server.get("/object_info")
    loader, sampling = Loader(inputs={"model": model}), Sampling(steps=2, size=64)
    saved = workflow(definitions, loader, sampling, PROMPTS[model][0], 1, methods(0.5, 2.0)[1])
    widgets = {node["type"]: node["widgets_values"] for node in saved["nodes"]}
    assert widgets["ATEDMDemoLoader"] == ["", model]
    assert server.run(to_api(saved, definitions))["status"]["completed"]


def test_the_full_picture_is_made_without_the_pack(server: Server) -> None:
    definitions = server.get("/object_info")

    def kinds(way: Way) -> list[str]:
        found = to_api(workflow(definitions, Loader(), SAMPLING, "x", 1, way), definitions)
        return [node["class_type"] for node in found.values() if node["class_type"].startswith("ATEDM")]

    pruned, auto = methods(0.5, 2.0)
    assert kinds(FULL) == kinds(fewer_steps(auto, 0.5, 20)) == ["ATEDMDemoLoader"]
    assert kinds(pruned) == ["ATEDMDemoLoader", "ATEDMApply"]
    assert kinds(auto) == ["ATEDMDemoLoader", "ATEDMAuto"]


def test_the_recording_node_stands_around_all_that_changes_the_model(server: Server) -> None:
    definitions = server.get("/object_info")
    prompt = to_api(workflow(definitions, Loader(), SAMPLING, "x", 1, methods(0.5, 2.0)[0]), definitions)
    watched = recorded(prompt, Loader(), "a", 128)
    assert [node["inputs"]["model"] for node in watched.values() if node["class_type"] == "ATEDMApply"] == [
        ["record", 0]
    ]
    assert "record" not in json.dumps(prompt), "the workflow itself was changed"


def test_sdxl_that_cannot_be_timed_leaves_the_rest_standing(capsys: pytest.CaptureFixture[str]) -> None:
    assert time_sdxl(7.0, 1.0, on_cpu=True) is None
    assert "prune_ratio" in capsys.readouterr().out


def test_times_are_compared_in_rounds() -> None:
    found = timing.speed_up([2.0, 4.0, 9.0], [1.0, 4.0, 3.0])
    assert (found["speed_up"], found["seconds"], found["rounds"]) == (2.0, 3.0, 3)
    assert found["speed_up_range"] == [1.0, 3.0]
    with pytest.raises(ValueError, match="no rounds"):
        timing.speed_up([], [])


def test_every_other_round_is_reversed() -> None:
    assert timing.turns(["a", "b", "c"], 0) == ["a", "b", "c"]
    assert timing.turns(["a", "b", "c"], 1) == ["c", "b", "a"]


def test_the_time_left_follows_from_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    progress = timing.Progress(4.0, 2, after=45.0, clock=lambda: now[0])
    progress.start()
    assert progress.left() == 45.0
    now[0] += 10.0
    progress.done(1.0, "full")
    assert progress.left() == 75.0
    assert "1 of 2" in (said := capsys.readouterr().out)
    assert "1 min 15 s left" in said
    hurried = timing.Progress(4.0, 2, most=15.0, after=45.0, clock=lambda: now[0])
    hurried.start()
    now[0] += 10.0
    hurried.done(1.0, "full")
    assert hurried.left() == 50.0, "what is left out takes no time"


def test_fewer_steps_cost_no_less_than_what_they_stand_beside() -> None:
    (way, _) = methods(0.56, 2.0)
    assert fewer_steps(way, 0.643, 20).steps == 13
    assert fewer_steps(way, 0.65, 20).steps == 13
    assert fewer_steps(way, 0.651, 20).steps == 14
    assert fewer_steps(way, 1.0, 20).steps == 20


def test_psnr_ssim_and_difference() -> None:
    gray = Image.fromarray(np.full((16, 16, 3), 100, np.uint8))
    other = Image.fromarray(np.full((16, 16, 3), 110, np.uint8))
    assert psnr(gray, gray) is None
    assert psnr(gray, other) == pytest.approx(28.13, abs=0.01)
    assert mean_difference(gray, other) == 10
    assert ssim(gray, gray) == 1


def test_ssim_is_scikit_images() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (40, 33, 3), np.uint8)
    other = np.clip(one + rng.normal(0, 30, one.shape), 0, 255).astype(np.uint8)
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
    expected = metrics.structural_similarity(one, other, **how)
    assert ssim(Image.fromarray(one), Image.fromarray(other)) == pytest.approx(expected, abs=1e-6)


def test_maps_show_kept_tokens_in_their_place() -> None:
    black = Image.new("RGB", (20, 20))
    shown = np.asarray(pictures.kept_map(black, (2, 2), [1.0, 0.0, 0.0, 0.0]), int).sum(-1)
    assert shown[:10, :10].min() > shown[10:, :].max()
    assert shown[:10, :10].min() > shown[:, 10:].max()


def test_the_command_line_reaches_the_settings(tmp_path: Path) -> None:
    line = ["--prompt", "a", "--prompt", "b", "--ratio", "0.5", "--speed-up", "3", "--steps", "3", "--size", "512"]
    given = parse_arguments([*line, "--batch", "1", "--no-sdxl", "--model", "shapes", "--out", str(tmp_path)])
    assert list(given.prompts) == ["a", "b"]
    assert (given.ratio, given.speed_up, given.sdxl, given.out) == (0.5, 3.0, False, tmp_path)
    assert (given.sampling.steps, given.sampling.size, given.sampling.batch) == (3, 512, 1)
    assert given.loader.inputs == {"model": "shapes"}
    assert parse_arguments([]) == Settings()
    assert parse_arguments(["--model", "shapes"]).prompts == PROMPTS["shapes"]
