"""AT-EDM Report on its node: a size at which it can be read, numbers that matter first, the reader's language, dark."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from frontend import PICTURES, Frontend
from graphs import demo_graph, run_and_wait
from PIL import Image, ImageStat
from playwright.sync_api import Browser, expect
from test_feedback import texts

from devtools.server import Server

FILES = """() => [...document.querySelectorAll('.atedm-report img')].map((one) =>
  Object.fromEntries(new URL(one.src).searchParams))"""
LOADED = """() => { const all = [...document.querySelectorAll('.atedm-report img')];
  return all.length > 0 && all.every((one) => one.complete && one.naturalWidth > 300) }"""
INTO_VIEW = """(id) => { const [x, y] = app.graph.getNodeById(id).pos; app.canvas.ds.offset = [60 - x, 70 - y];
  app.canvas.setDirty(true, true) }"""
FONTS = """() => [...document.querySelectorAll('.atedm-report .figure *')]
  .map((one) => parseFloat(getComputedStyle(one).fontSize))"""
DRAWN = """() => [...document.querySelectorAll('.atedm-report img')].map((one) => {
  const { top, left } = one.getBoundingClientRect();
  return { top, left, scale: one.clientWidth / one.naturalWidth } })"""
LEAST_SIZE = (600, 800)
LEAST_TEXT = 11.0  # pixels at the canvas' natural size


def reported(ui: Frontend) -> tuple[dict[str, int], int]:
    node = demo_graph(ui)
    report = ui.add("ATEDMReport", 1500, 40)
    ui.connect(node["ATEDMApply"], report, "model")
    ui.connect(node["VAEDecode"], report, "result")
    bring(ui, report)
    return node, report


def bring(ui: Frontend, node: int) -> None:
    """Into view: what is outside of it is not laid out."""
    ui.js(INTO_VIEW, node)


def panel(ui: Frontend) -> Any:
    return ui.page.locator(".atedm-report")


def brightness(ui: Frontend) -> float:
    """Of the edges of the pictures that the panel shows, 0 to 255."""
    shown = [Image.open(io.BytesIO(ui.server.view(one))).convert("L") for one in ui.js(FILES)]
    return max(ImageStat.Stat(one.crop((0, 0, one.width, 8))).mean[0] for one in shown)


def test_a_fresh_report_can_be_read(ui: Frontend) -> None:
    node, report = reported(ui)
    ui.set(node["KSampler"], "steps", {"canvas": 5, "nodes-2.0": 6}[ui.renderer])  # as no other run on this server
    width, height = ui.js("(id) => [...app.graph.getNodeById(id).size]", report)
    assert (width, height) >= LEAST_SIZE
    assert height >= LEAST_SIZE[1]
    expect(panel(ui)).to_contain_text("Queue the workflow")
    run_and_wait(ui)
    ui.wait(LOADED)
    figures = panel(ui).locator(".figure").all_text_contents()
    assert figures[0].startswith("1.0"), "speed comes first"
    assert "not enough runs to say" in figures[0]
    assert "reference" in figures[1], "then distance"
    assert "%" in figures[2]
    assert "tokens computed" in figures[3]
    assert min(ui.js(FONTS)) >= LEAST_TEXT
    # the sheets are shown about as wide as they were drawn, and so are their letters
    assert min(one["scale"] for one in ui.js(DRAWN)) > 0.85
    assert "one run each" not in panel(ui).text_content()
    ui.picture(PICTURES / f"report-fresh-{ui.renderer}.png")


def test_pictures_stand_below_each_other_and_are_as_dark_as_the_interface(ui: Frontend) -> None:
    reported(ui)
    run_and_wait(ui)
    ui.wait(LOADED)
    tops, lefts = ([one[side] for one in ui.js(DRAWN)] for side in ("top", "left"))
    assert tops == sorted(set(tops))
    assert len(tops) == 2
    assert len(set(lefts)) == 1
    assert brightness(ui) < 90


def test_measured_speed_and_distance_are_there_once_there_is_enough_to_say(ui: Frontend) -> None:
    node, report = reported(ui)
    off = ui.add("ATEDMApply", 380, 900)
    whole, picture = ui.add("KSampler", 860, 900), ui.add("VAEDecode", 1180, 900)
    ui.set(off, "prune_ratio", 0.0)
    seed = ui.add("PrimitiveInt", 20, 900)
    for name, value in {"steps": 4, "cfg": 4.0, "scheduler": "normal"}.items():
        ui.set(whole, name, value)
    for source, output, target, name in (
        (node["ATEDMDemoLoader"], 0, off, "model"),
        (off, 0, whole, "model"),
        (node["CLIPTextEncode"], 0, whole, "positive"),
        (node["CLIPTextEncode"], 0, whole, "negative"),
        (node["EmptyLatentImage"], 0, whole, "latent_image"),
        (whole, 0, picture, "samples"),
        (node["ATEDMDemoLoader"], 2, picture, "vae"),
        (picture, 0, report, "reference"),
        (seed, 0, whole, "seed"),
        (seed, 0, node["KSampler"], "seed"),
    ):
        ui.connect(source, target, name, output)
    for value in (1, 2, 3, 4):  # one more than it takes: a badge is told as its own run ends, maybe before the other's
        ui.set(seed, "value", value)
        run_and_wait(ui)
    text = panel(ui).text_content()
    assert "measured; single runs" in text
    assert re.search(r"\(\d+ runs, \d+ with prune_ratio 0\)", text)
    assert "PSNR" in text
    assert "SSIM" in text
    bring(ui, node["ATEDMApply"])
    badges = ui.page.locator(".atedm-badge[data-state=saved]")
    expect(badges).to_contain_text("x measured")


def test_forecasts_are_shown_too(ui: Frontend) -> None:
    node = demo_graph(ui)
    forecast, report = ui.add("StepForecastApply", 640, 40), ui.add("ATEDMReport", 1500, 40)
    ui.connect(node["ATEDMDemoLoader"], forecast, "model")
    ui.connect(forecast, node["KSampler"], "model")
    ui.connect(forecast, report, "model")
    ui.connect(node["VAEDecode"], report, "result")
    bring(ui, report)
    ui.set(node["KSampler"], "steps", 14)
    run_and_wait(ui)
    ui.wait(LOADED)
    text = panel(ui).text_content()
    assert "evaluations real" in text
    assert "a forecast was off by" in text
    assert "tokens" not in text
    ui.picture(PICTURES / f"report-forecast-{ui.renderer}.png")


@pytest.mark.parametrize(("renderer", "language"), [("canvas", "zh-TW"), ("nodes-2.0", "ar")])
def test_a_report_speaks_the_readers_language_and_stays_light(
    server: Server, browser: Browser, renderer: str, language: str
) -> None:
    ui = Frontend(server, browser, renderer, **{"Comfy.Locale": language, "Comfy.ColorPalette": "light"})
    ui.clear()
    reported(ui)
    run_and_wait(ui)
    ui.wait(LOADED)
    own = texts(language)["report"]
    expect(panel(ui)).to_contain_text(own["no_reference"])
    expect(panel(ui)).to_contain_text(own["tokens"])
    assert brightness(ui) > 200
    ui.picture(PICTURES / f"report-{language}.png")
    ui.close()
    assert ui.complaints == []
