"""The pictures of the help pages and of the README, taken from the frontend:

    ATEDM_TAKE_PICTURES=1 python -m pytest tests/ui/test_pictures.py

Without that variable they are only looked up: what a page shows must be there (tests/repo/test_help_pages.py).
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from frontend import Frontend
from graphs import demo_graph, run_and_wait
from PIL import Image

from atedm_core.unet.schedule import DEFAULT_RATIO
from devtools.layout import ROOT

HELP = ROOT / "web" / "docs" / "images"
README = ROOT / "docs" / "images"
MARGIN = 24
CLEAR_OF_MENUS = (120, 130)
AT_SCALE = """([scale, offset]) => { app.canvas.ds.scale = scale; app.canvas.ds.offset = offset;
  app.canvas.setDirty(true, true) }"""
LOW = "(id) => { const node = app.graph.getNodeById(id); node.setSize([node.size[0], 140]) }"
MENUS = ".comfyui-body-top, .graph-canvas-panel, [data-testid=subgraph-breadcrumb]"

pytestmark = pytest.mark.skipif("ATEDM_TAKE_PICTURES" not in os.environ, reason="only with ATEDM_TAKE_PICTURES=1")


def take(ui: Frontend, nodes: list[int], target: Path, scale: float = 1.0) -> None:
    """A picture of these nodes and nothing else."""
    ui.js(AT_SCALE, [scale, list(CLEAR_OF_MENUS)])
    ui.page.wait_for_timeout(1500)
    boxes = ui.js("(ids) => ids.map((id) => [...app.graph.getNodeById(id).boundingRect])", nodes)
    left, top = (min(box[axis] for box in boxes) for axis in (0, 1))
    right, bottom = (max(box[axis] + box[axis + 2] for box in boxes) for axis in (0, 1))
    x0, x1 = (left + CLEAR_OF_MENUS[0]) * scale - MARGIN, (right + CLEAR_OF_MENUS[0]) * scale + MARGIN
    y0, y1 = (top + CLEAR_OF_MENUS[1]) * scale - MARGIN, (bottom + CLEAR_OF_MENUS[1]) * scale + MARGIN
    canvas = ui.page.locator("#graph-canvas").bounding_box()
    assert canvas
    clip = {"x": canvas["x"] + x0, "y": canvas["y"] + y0, "width": x1 - x0, "height": y1 - y0}
    taken = Image.open(io.BytesIO(ui.page.screenshot(clip=clip))).convert("RGB")  # type: ignore[arg-type]
    target.parent.mkdir(parents=True, exist_ok=True)
    taken.save(target, quality=82)


@pytest.fixture
def modern(ui: Frontend) -> Frontend:
    """Pictures are taken in Nodes 2.0, without menus over the graph."""
    if ui.renderer != "nodes-2.0":
        pytest.skip("pictures are taken in Nodes 2.0")
    ui.page.set_viewport_size({"width": 1700, "height": 1100})
    ui.js("(menus) => document.querySelectorAll(menus).forEach((one) => { one.style.opacity = 0 })", MENUS)
    return ui


def test_apply(modern: Frontend) -> None:
    loader, apply = modern.add("CheckpointLoaderSimple", 0, 0), modern.add("ATEDMApply", 380, 0)
    sampler = modern.add("KSampler", 740, 0)
    modern.connect(loader, apply, "model")
    modern.connect(apply, sampler, "model")
    modern.js(LOW, apply)
    take(modern, [loader, apply, sampler], HELP / "ATEDMApply.webp")


def test_schedule(modern: Frontend) -> None:
    schedule, apply = modern.add("ATEDMSchedule", 0, 0), modern.add("ATEDMApply", 420, 0)
    modern.connect(schedule, apply, "schedule")
    modern.js(LOW, apply)
    modern.set(schedule, "half_level", 0.5)
    modern.set(schedule, "ramp", "cosine")
    modern.set(schedule, "early_percent", 0.4)
    take(modern, [schedule], HELP / "ATEDMSchedule.webp", scale=1.25)
    take(modern, [schedule, apply], README / "schedule_plot.jpg", scale=1.25)


def test_budget(modern: Frontend) -> None:
    loader, budget = modern.add("CheckpointLoaderSimple", 0, 0), modern.add("ATEDMBudget", 380, 0)
    apply = modern.add("ATEDMApply", 780, 0)
    modern.set(loader, "ckpt_name", "sd_xl_base_1.0.safetensors")
    for target in (budget, apply):
        modern.connect(loader, target, "model")
    modern.connect(budget, apply, "prune_ratio")
    modern.js(LOW, apply)
    take(modern, [loader, budget, apply], HELP / "ATEDMBudget.webp")


def test_graph_for_the_readme(modern: Frontend) -> None:
    node = demo_graph(modern, ratio=DEFAULT_RATIO)
    modern.set(node["KSampler"], "steps", 20)
    modern.js(LOW, node["ATEDMApply"])
    run_and_wait(modern)
    take(modern, list(node.values()), README / "node_in_a_graph.jpg")


def test_report(modern: Frontend) -> None:
    node = demo_graph(modern, ratio=DEFAULT_RATIO)
    modern.set(node["KSampler"], "steps", 20)
    modern.page.set_viewport_size({"width": 2500, "height": 1600})
    report = modern.add("ATEDMReport", 1600, 40)
    modern.connect(node["ATEDMApply"], report, "model")
    modern.connect(node["VAEDecode"], report, "result")
    modern.js("(id) => app.graph.getNodeById(id).setSize([680, 1400])", report)
    modern.set(node["KSampler"], "seed", 29)  # not what another picture left in ComfyUI's cache
    run_and_wait(modern)
    take(modern, [report], HELP / "ATEDMReport.webp", scale=0.8)


def test_cat(modern: Frontend) -> None:
    loader, apply = modern.add("CheckpointLoaderSimple", 0, 0), modern.add("CATPruningApply", 380, 0)
    sampler = modern.add("KSampler", 740, 0)
    modern.connect(loader, apply, "model")
    modern.connect(apply, sampler, "model")
    take(modern, [loader, apply, sampler], HELP / "CATPruningApply.webp")


def test_forecast(modern: Frontend) -> None:
    loader, apply = modern.add("CheckpointLoaderSimple", 0, 0), modern.add("StepForecastApply", 380, 0)
    sampler = modern.add("KSampler", 740, 0)
    modern.connect(loader, apply, "model")
    modern.connect(apply, sampler, "model")
    take(modern, [loader, apply, sampler], HELP / "StepForecastApply.webp")


def test_auto(modern: Frontend) -> None:
    loader, auto = modern.add("CheckpointLoaderSimple", 0, 0), modern.add("ATEDMAuto", 380, 0)
    sampler = modern.add("KSampler", 740, 0)
    modern.connect(loader, auto, "model")
    modern.connect(auto, sampler, "model")
    take(modern, [loader, auto, sampler], HELP / "ATEDMAuto.webp")
