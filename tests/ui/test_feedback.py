"""What a run tells on the nodes that took part in it: while it samples, when it has ended, after a reload, to whom."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from frontend import PICTURES, Frontend
from graphs import demo_graph, run_and_wait
from playwright.sync_api import Browser, expect

from devtools.layout import ROOT
from devtools.server import Server

# everything that a badge said, from its first word on
LISTEN = """() => { window.said = []; new MutationObserver(() => {
  const badge = document.querySelector('.atedm-badge'); if (badge) window.said.push(badge.textContent) })
  .observe(document.body, { subtree: true, childList: true, characterData: true }) }"""
MINIMUM = 400


def badge(ui: Frontend) -> Any:
    return ui.page.locator(".atedm-badge")


def texts(language: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))["AT-EDM"])


def never_past_early(ui: Frontend, node: dict[str, int]) -> None:
    """A schedule that prunes nothing, though something was to be pruned."""
    ui.set(node["ATEDMSchedule"], "early_percent", 1.0)
    ui.set(node["ATEDMSchedule"], "early_blocks", "all")


def test_a_node_says_what_its_run_is_doing_and_what_it_saved(ui: Frontend) -> None:
    node = demo_graph(ui)
    ui.set(node["KSampler"], "steps", 12)
    ui.js(LISTEN)
    run_and_wait(ui)
    expect(badge(ui)).to_have_count(1)
    expect(badge(ui)).to_have_text(re.compile(r"^saved [1-9]\d?% of the FLOPs$"))
    expect(badge(ui)).to_have_attribute("data-state", "saved")
    said = set(ui.js("() => window.said"))
    assert any(re.fullmatch(r"step \d+ of 12, (pruned|in full)", one) for one in said), said
    ui.fit()
    ui.picture(PICTURES / f"badge-saved-{ui.renderer}.png")


def test_doing_nothing_is_said_loudest_and_doing_nothing_on_purpose_quietly(ui: Frontend) -> None:
    node = demo_graph(ui)
    never_past_early(ui, node)
    run_and_wait(ui)
    expect(badge(ui)).to_have_attribute("data-state", "nothing")
    expect(badge(ui)).to_contain_text("early_percent is 1 and this run never got past it")
    ui.fit()
    ui.picture(PICTURES / f"badge-nothing-{ui.renderer}.png")
    ui.set(node["ATEDMApply"], "prune_ratio", 0.0)
    run_and_wait(ui)
    expect(badge(ui)).to_have_attribute("data-state", "off")
    expect(badge(ui)).to_contain_text("prune_ratio is 0")


def test_every_node_that_makes_a_model_faster_speaks(ui: Frontend) -> None:
    node = demo_graph(ui)
    forecast = ui.add("StepForecastApply", 640, 40)
    ui.connect(node["ATEDMApply"], forecast, "model")
    ui.connect(forecast, node["KSampler"], "model")
    ui.set(node["KSampler"], "steps", 12)
    run_and_wait(ui)
    expect(badge(ui)).to_have_count(2)
    said = ui.js(
        "() => app.graph._nodes.filter((one) => one.atedmBadge).map((one) => [one.type, one.atedmBadge.textContent])"
    )
    assert {kind for kind, text in said if text.startswith("saved")} == {"ATEDMApply", "StepForecastApply"}


def test_a_reload_and_another_workflow_in_between_lose_no_badge(
    server: Server, browser: Browser, opened: Frontend
) -> None:
    ui = Frontend(server, browser, opened.renderer, **{"Comfy.Workflow.Persist": True})
    ui.clear()
    node = demo_graph(ui)
    ui.set(node["KSampler"], "seed", len(opened.renderer))
    never_past_early(ui, node)
    run_and_wait(ui)
    expect(badge(ui)).to_have_attribute("data-state", "nothing")
    workflow = ui.workflow()
    assert "never got past" not in json.dumps(workflow), "nothing of it is saved"
    ui.clear()
    ui.add("ATEDMApply")
    expect(badge(ui)).to_have_count(0)
    ui.open(workflow)
    expect(badge(ui)).to_contain_text("never got past it")
    # the frontend keeps a draft only of what has changed, and may be asked before it is ready to
    ui.set(node["KSampler"], "cfg", 3.5)
    ui.wait(
        "() => { app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();"
        " return Object.values(localStorage).some((kept) => kept.includes('ATEDMSchedule')) }"
    )
    ui.load()
    expect(badge(ui)).to_contain_text("never got past it")
    ui.close()
    assert ui.complaints == []


def test_another_browser_sees_nothing_of_it(ui: Frontend, server: Server, browser: Browser) -> None:
    node = demo_graph(ui)
    report = ui.add("ATEDMReport", 1180, 420)
    ui.connect(node["ATEDMApply"], report, "model")
    ui.connect(node["VAEDecode"], report, "result")
    workflow = ui.workflow()
    other = Frontend(server, browser, ui.renderer)
    other.open(workflow)  # the same nodes of the same numbers in a workflow of the same id
    other.page.wait_for_timeout(MINIMUM)
    before = other.page.locator("body").inner_text()
    other.js(LISTEN)
    run_and_wait(ui)
    expect(badge(ui)).to_have_attribute("data-state", "saved")
    other.page.wait_for_timeout(MINIMUM)
    assert other.js("() => window.said") == []
    expect(badge(other)).to_have_count(0)
    assert "AT-EDM: " not in other.page.locator("body").inner_text().replace(before, "")
    assert other.js("() => Object.keys(sessionStorage).filter((name) => name.startsWith('at-edm/'))") == []
    other.close()
    assert other.complaints == []


# one with wide letters and one from right to left, each in one renderer
@pytest.mark.parametrize(("renderer", "language"), [("canvas", "zh-TW"), ("nodes-2.0", "ar")])
def test_badges_speak_the_readers_language(server: Server, browser: Browser, renderer: str, language: str) -> None:
    ui = Frontend(server, browser, renderer, **{"Comfy.Locale": language})
    ui.clear()
    node = demo_graph(ui)
    ui.set(node["KSampler"], "seed", sum(map(ord, language)))  # what ComfyUI answers from its cache says nothing
    never_past_early(ui, node)
    run_and_wait(ui)
    own = texts(language)
    reason = own["reason"]["never_past_early"].format(early="1")
    expect(badge(ui)).to_have_text(own["badge"]["nothing"].format(reason=reason))
    ui.fit()
    ui.picture(PICTURES / f"badge-{language}.png")
    ui.close()
    assert ui.complaints == []
