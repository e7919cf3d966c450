"""A user's way through the frontend: find nodes, connect them, read about them, run them, come back to them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from frontend import PICTURES, Frontend
from graphs import TEMPLATES, demo_graph, run_and_wait
from playwright.sync_api import Browser, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from devtools.layout import PACK_FOLDER, ROOT
from devtools.server import Server

PUBLISHED: dict[str, Any] = json.loads((ROOT / "tests" / "host" / "node_schemas.json").read_text(encoding="utf-8"))
HELP_PICTURES = """() => { const all = [...document.querySelectorAll('.node-help-content img')];
  return all.length > 0 && all.every((one) => one.complete && one.naturalWidth > 100) }"""
# what is wider than the panel, or than the box around it that would have to be scrolled
HELP_CUT_OFF = """() => { const page = document.querySelector('.node-help-content');
  const edge = page.getBoundingClientRect().right;
  const hides = (one) => one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1
    && getComputedStyle(one).display !== 'inline'
  return [page, ...page.querySelectorAll('*')]
    .filter((one) => hides(one) || one.getBoundingClientRect().right > edge + 1)
    .map((one) => one.tagName + ' ' + one.textContent.slice(0, 40)) }"""
DRAWN = """([id]) => app.graph.getNodeById(id).imgs?.length
  || document.querySelector(`[data-node-id="${id}"] img`)?.naturalWidth"""
KEPT = """() => Object.values(localStorage).some((kept) => kept.includes('ATEDMSchedule') && kept.includes('0.45'))"""
TRIES, TRY_MS = 6, 5_000
OWN_EXTENSION = "() => Object.keys(app.extensions.find((one) => one.name === 'AT-EDM')).sort()"


def picture(ui: Frontend, name: str) -> None:
    ui.picture(PICTURES / f"{name}-{ui.renderer}.png")


def select(ui: Frontend, node: int) -> None:
    ui.js("([id]) => app.canvas.selectNode(app.graph.getNodeById(id))", [node])


def open_search(ui: Frontend, x: float, y: float) -> None:
    """The box that a double click on the canvas opens, ready for letters: before that they are shortcuts."""
    for _ in range(TRIES):
        ui.page.mouse.dblclick(x, y)
        try:
            ui.page.wait_for_function("() => document.activeElement?.tagName === 'INPUT'", timeout=TRY_MS)
            return
        except PlaywrightTimeoutError:
            continue  # on a busy machine two clicks can be too far apart for a double click
    raise AssertionError(f"{TRIES} double clicks opened no search")


def search_and_place(ui: Frontend, name: str) -> None:
    canvas = ui.page.locator("#graph-canvas").bounding_box()
    assert canvas
    x, y = canvas["x"] + 0.75 * canvas["width"], canvas["y"] + 0.8 * canvas["height"]
    open_search(ui, x, y)
    ui.page.keyboard.type(name)
    expect(ui.page.get_by_test_id("result-item").first).to_contain_text(name)
    ui.page.keyboard.press("Enter")
    ui.wait("() => app.graph._nodes.length === 1")
    # the dialog takes clicks until it has faded; then the node hangs on the pointer until a click puts it down
    expect(ui.page.locator(".p-dialog-mask")).to_have_count(0)
    ui.page.mouse.click(x - 300, y - 400)
    ui.wait("() => app.canvas.state.ghostNodeId == null")


@pytest.mark.parametrize("node_id", PUBLISHED)
def test_a_node_is_found_by_name_and_added(ui: Frontend, node_id: str) -> None:
    search_and_place(ui, PUBLISHED[node_id]["display_name"])
    assert ui.node_types() == [node_id]
    assert ui.js("() => app.graph._nodes[0].title") == PUBLISHED[node_id]["display_name"]
    kinds = {"FLOAT", "INT", "COMBO", "BOOLEAN", "STRING"}
    widgets = [one["id"] for one in PUBLISHED[node_id]["inputs"] if one["type"] in kinds]
    shown = ui.js(
        "() => (app.graph._nodes[0].widgets ?? []).filter((one) => one.serialize !== false).map((one) => one.name)"
    )
    assert shown == widgets


@pytest.mark.parametrize(
    ("words", "expected"),
    [("at-edm", set(PUBLISHED)), ("atedm", set(PUBLISHED)), ("cache", {"StepForecastApply", "ATEDMAuto"})],
)
def test_a_search_finds_the_nodes_that_serve(ui: Frontend, words: str, expected: set[str]) -> None:
    canvas = ui.page.locator("#graph-canvas").bounding_box()
    assert canvas
    open_search(ui, canvas["x"] + 0.75 * canvas["width"], canvas["y"] + 0.8 * canvas["height"])
    ui.page.keyboard.type(words)
    results = ui.page.get_by_test_id("result-item")
    for node_id in expected:
        expect(results.filter(has_text=PUBLISHED[node_id]["display_name"]).first).to_be_attached()
    ui.page.keyboard.press("Escape")
    ui.page.keyboard.press("Escape")


@pytest.mark.parametrize("node_id", PUBLISHED)
def test_the_help_panel_shows_its_page(ui: Frontend, node_id: str) -> None:
    node = ui.add(node_id, 250, 150)
    select(ui, node)
    ui.page.get_by_test_id("info-button").click()
    page = ui.page.locator(".node-help-content")
    expect(page.locator("h1")).to_have_text(PUBLISHED[node_id]["display_name"])
    expect(page.locator("h2")).to_have_text(["Inputs", "Outputs", "Tips"])
    rows = page.locator("table").first.locator("tbody td").all_inner_texts()
    named = [row.partition("\n")[0] for row in rows]
    inputs = {one["id"] for one in PUBLISHED[node_id]["inputs"]}
    assert {name for cell in named for name in re.findall(r"\w+", cell)} == inputs
    ui.wait(HELP_PICTURES)
    assert ui.js(HELP_CUT_OFF) == []
    picture(ui, f"help-{node_id}")
    ui.page.get_by_test_id("info-button").click()


def test_about_has_one_badge_and_nothing_else_is_added(ui: Frontend) -> None:
    assert ui.js(OWN_EXTENSION) == ["aboutPageBadges", "afterConfigureGraph", "name", "nodeCreated", "setup"]
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    ui.js("() => { app.extensionManager.command.execute('Comfy.ShowSettingsDialog') }")
    ui.page.get_by_text("About", exact=True).first.click()
    badge = ui.page.locator("a.about-badge", has_text="AT-EDM")
    expect(badge).to_have_count(1)
    expect(badge).to_have_text(f"AT-EDM v{version[1]}")
    assert f'Repository = "{badge.get_attribute("href")}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    picture(ui, "about")
    ui.page.keyboard.press("Escape")
    expect(badge).to_have_count(0)


def shown_pictures(ui: Frontend, node: int) -> list[dict[str, Any]]:
    """The pictures a node holds after a run."""
    return list(ui.js("([id]) => app.nodeOutputs[id]?.images ?? []", [node]))


def test_a_run_shows_its_picture(ui: Frontend) -> None:
    node = demo_graph(ui)
    run_and_wait(ui)
    (image,) = shown_pictures(ui, node["PreviewImage"])
    assert ui.server.view(image).startswith(b"\x89PNG")
    assert "AT-EDM: kept" in ui.server.log()
    ui.wait(DRAWN, [node["PreviewImage"]])
    picture(ui, "run")


@pytest.mark.parametrize("template", TEMPLATES, ids=[path.stem for path in TEMPLATES])
def test_a_template_opens(ui: Frontend, template: Path) -> None:
    workflow = json.loads(template.read_text(encoding="utf-8"))
    ui.open(workflow)
    assert sorted(ui.node_types()) == sorted(node["type"] for node in workflow["nodes"])
    assert ui.js("() => app.graph._nodes.filter((node) => node.has_errors).map((node) => node.type)") == []
    ui.fit()
    picture(ui, f"template-{template.stem}")


def test_templates_are_listed(ui: Frontend) -> None:
    listed = ui.server.get("/workflow_templates").get(PACK_FOLDER, [])
    assert sorted(listed) == [path.stem for path in TEMPLATES]


def values(workflow: dict[str, Any]) -> list[tuple[str, Any]]:
    """What every node's widgets hold."""
    return [(node["type"], node.get("widgets_values") or []) for node in workflow["nodes"]]


def test_after_a_reload_everything_is_as_it_was(server: Server, browser: Browser, opened: Frontend) -> None:
    ui = Frontend(server, browser, opened.renderer, **{"Comfy.Workflow.Persist": True})
    ui.clear()
    node = demo_graph(ui, ratio=0.35)
    ui.set(node["ATEDMSchedule"], "early_percent", 0.45)
    ui.set(node["ATEDMSchedule"], "ramp", "linear")
    words = "([text]) => document.querySelector('.atedm-plot desc')?.textContent.includes(text)"
    ui.wait(words, ["rises from 0% to 35% while the first 45%"])
    before, queued = ui.workflow(), ui.prompt()
    ui.js("() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
    ui.wait(KEPT)
    ui.load()
    ui.wait(words, ["rises from 0% to 35% while the first 45%"])
    assert ui.prompt() == queued
    after = ui.workflow()
    assert values(after) == values(before)
    assert sorted(map(tuple, after["links"])) == sorted(map(tuple, before["links"]))
    picture(ui, "reloaded")
    ui.close()
    assert ui.complaints == []


def test_the_server_has_nothing_to_complain_about(ui: Frontend) -> None:
    ui.add("ATEDMSchedule")
    lines = [line for line in ui.server.log().splitlines() if re.search(r"WARN|ERROR|Traceback|IMPORT FAILED", line)]
    # the host's own, and what other tests on this server had to be told of their runs
    expected = r"template asset paths|nothing (was|will be) pruned"
    assert [line for line in lines if not re.search(expected, line)] == []
