"""The pack in another language: names, the plot, the help page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from frontend import PICTURES, Frontend
from playwright.sync_api import Browser, expect

from devtools.layout import ROOT
from devtools.server import Server


def texts(language: str, name: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8")))


# one with wide letters and one from right to left, each in one renderer
@pytest.mark.parametrize(("renderer", "language"), [("canvas", "zh-TW"), ("nodes-2.0", "ar")])
def test_node_plot_and_help_are_translated(server: Server, browser: Browser, renderer: str, language: str) -> None:
    node_texts, plot_texts = texts(language, "nodeDefs")["ATEDMSchedule"], texts(language, "main")["AT-EDM"]["plot"]
    ui = Frontend(server, browser, renderer, **{"Comfy.Locale": language})
    ui.clear()
    node = ui.add("ATEDMSchedule", 250, 150)
    assert ui.js("([id]) => app.graph.getNodeById(id).title", [node]) == node_texts["display_name"]
    labels = ui.js("([id]) => (app.graph.getNodeById(id).widgets ?? []).map((one) => [one.name, one.label])", [node])
    expected = [[name, text["name"]] for name, text in node_texts["inputs"].items()]
    assert labels[: len(expected)] == expected
    expect(ui.plot().locator(".heading")).to_have_text(plot_texts["title"])
    expect(ui.plot().locator("desc")).to_contain_text(plot_texts["spared"])
    expect(ui.plot().locator("text", has_text="30")).to_have_count(1)  # Latin digits, as in the widgets
    ui.js("([id]) => app.canvas.selectNode(app.graph.getNodeById(id))", [node])
    ui.page.get_by_test_id("info-button").click()
    expect(ui.page.locator(".node-help-content h1")).to_have_text(node_texts["display_name"])
    ui.wait("() => document.querySelector('.node-help-content img')?.naturalWidth > 100")
    ui.picture(PICTURES / f"language-{language}-{renderer}.png")
    ui.close()
    assert ui.complaints == []
