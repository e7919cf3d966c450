"""The plot on AT-EDM DSAP Schedule: right numbers, follows everything, is read without eyes, leaves no trace."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from frontend import Frontend
from playwright.sync_api import expect

from atedm_core.unet.schedule import EARLY_BLOCKS, RAMPS, DSAPSchedule
from atedm_core.unet.structure import LEVEL_NAMES, AttentionBlock

RATIOS = """async ([schedules, places]) => { const { ratio } = await import('/extensions/at-edm/js/dsap.js');
  return schedules.flatMap((schedule) => places.map((place) => ratio(schedule, ...place))) }"""
LINE = """async (schedule) => { const { levelGroups, sparedLine } = await import('/extensions/at-edm/js/dsap.js');
  return levelGroups(schedule).map((group) => [group.levels, sparedLine(schedule, group)]) }"""
CONSTANTS = """async () => { const { DEFAULT_RATIO, LEVELS, MAX_RATIO } =
  await import('/extensions/at-edm/js/dsap.js'); return [DEFAULT_RATIO, MAX_RATIO, LEVELS] }"""
CONTRAST = """() => { const rgb = (css) =>
    css.match(/[\\d.]+/g).map((number) => number * (css.startsWith('color') ? 255 : 1));
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) =>
    v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05) };
  const root = document.querySelector('.atedm-plot'); const ground = rgb(getComputedStyle(root).backgroundColor);
  const of = (query, name) => [...root.querySelectorAll(query)]
    .map((e) => ratio(rgb(getComputedStyle(e)[name]), ground));
  return { texts: [...of('text', 'fill'), ...of('.note, .legend, .heading', 'color')],
    lines: of('.spared', 'stroke') } }"""


def block(level: int, ends_stage: bool) -> AttentionBlock:
    return AttentionBlock("input", 0, level, 1, 1, 1, 1, 1, ends_stage)


def as_javascript(schedule: DSAPSchedule) -> dict[str, Any]:
    return {
        "pruneRatio": schedule.prune_ratio,
        "earlyPercent": schedule.early_percent,
        "earlyRatio": schedule.early_ratio,
        "earlyBlocks": schedule.early_blocks,
        "ramp": schedule.ramp,
        "levelScales": list(schedule.level_scales or ()),
    }


def schedules() -> list[DSAPSchedule]:
    grid = itertools.product((0.0, 0.63, 0.95), (0.0, 0.3, 1.0), (0.0, 0.4, 0.95), EARLY_BLOCKS, RAMPS)
    scales = ((1.0, 1.0, 1.0, 1.0), (0.0, 0.35, 2.0, 1.0))
    return [DSAPSchedule(*values, level_scales=given) for values in grid for given in scales]


def test_numbers_are_those_of_the_python_schedule(ui: Frontend) -> None:
    places = list(itertools.product((0.0, 0.1, 0.29999, 0.3, 0.65, 1.0), range(len(LEVEL_NAMES)), (True, False)))
    found = ui.js(RATIOS, [[as_javascript(schedule) for schedule in schedules()], places])
    expected = [
        schedule.ratio(progress, block(level, ends)) for schedule in schedules() for progress, level, ends in places
    ]
    assert len(found) == len(expected) > 10_000
    assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) < 1e-12


def test_drawn_lines_pass_through_the_python_schedule(ui: Frontend) -> None:
    for schedule in schedules()[::7]:
        for levels, line in ui.js(LINE, as_javascript(schedule)):
            assert [point[0] for point in line] == sorted(point[0] for point in line)
            assert line[-1][0] == 1.0
            # between two points of a ramp a straight line has to be good enough for the eye
            for (x0, y0), (x1, y1) in itertools.pairwise(line):
                if x1 > x0:
                    middle = schedule.ratio((x0 + x1) / 2, block(LEVEL_NAMES.index(levels[0]), True))
                    assert (y0 + y1) / 2 == pytest.approx(middle, abs=0.002)


def test_constants_are_those_of_the_core(ui: Frontend) -> None:
    from atedm_core.unet.schedule import DEFAULT_RATIO, MAX_RATIO

    assert ui.js(CONSTANTS) == [DEFAULT_RATIO, MAX_RATIO, list(LEVEL_NAMES)]


def desc(ui: Frontend) -> Any:
    return expect(ui.plot().locator("desc"))


def test_follows_every_input(ui: Frontend) -> None:
    node = ui.add("ATEDMSchedule")
    desc(ui).to_contain_text("0% of the tokens are dropped until 30% of the noise range has gone, then 66%.")
    desc(ui).to_contain_text("Other blocks: 66%")
    ui.set(node, "early_percent", 0.5)
    desc(ui).to_contain_text("until 50%")
    ui.set(node, "early_ratio", 0.2)
    desc(ui).to_contain_text("Spared blocks: 20%")
    ui.set(node, "ramp", "cosine")
    desc(ui).to_contain_text("rises from 20% to 66%")
    ui.set(node, "quarter_level", 0.5)
    desc(ui).to_contain_text("Other blocks (quarter resolution): 33%")
    expect(ui.plot().locator("path.spared")).to_have_count(2)
    ui.set(node, "early_blocks", "all")
    desc(ui).to_contain_text("All blocks (full, half, eighth resolution): the share")
    expect(ui.plot().locator("path.others")).to_have_count(0)
    ui.set(node, "early_blocks", "none")
    desc(ui).to_contain_text("66% of the tokens are dropped throughout")
    expect(ui.plot().locator(".early")).to_have_count(0)


def test_follows_what_a_user_does_with_the_mouse(ui: Frontend) -> None:
    node = ui.add("ATEDMSchedule")
    desc(ui).to_contain_text("until 30%")
    if ui.renderer == "canvas":
        place = "([id]) => { const node = app.graph.getNodeById(id); return [node.widgets[0].y, node.size[0]] }"
        offset, width = ui.js(place, [node])
        ui.page.mouse.click(*ui.screen_place(node, width - 26, offset + 10))
    else:
        ui.page.get_by_test_id("increment").first.click()
    desc(ui).to_contain_text("until 31%")
    assert next(iter(ui.prompt().values()))["inputs"]["early_percent"] == pytest.approx(0.31)


def test_shows_the_ratio_of_the_connected_apply(ui: Frontend) -> None:
    schedule, apply = ui.add("ATEDMSchedule"), ui.add("ATEDMApply", 500)
    note = expect(ui.plot().locator(".note"))
    note.to_have_text("For prune_ratio 0.66, the default: no AT-EDM Apply is connected.")
    ui.set(apply, "prune_ratio", 0.4)
    ui.connect(schedule, apply, "schedule")
    note.to_have_text("For prune_ratio 0.4 of the connected AT-EDM Apply.")
    desc(ui).to_contain_text("then 40%")
    ui.set(apply, "prune_ratio", 0.25)
    desc(ui).to_contain_text("then 25%")
    other = ui.add("ATEDMApply", 500, 500)
    ui.connect(schedule, other, "schedule")
    note.to_have_text("For prune_ratio 0.25 of the first connected AT-EDM Apply.")
    ui.js("(ids) => ids.forEach((id) => app.graph.remove(app.graph.getNodeById(id)))", [apply, other])
    note.to_contain_text("the default")
    desc(ui).to_contain_text("then 66%")


def test_inputs_turned_into_links(ui: Frontend) -> None:
    schedule, apply = ui.add("ATEDMSchedule"), ui.add("ATEDMApply", 500)
    budget, number = ui.add("ATEDMBudget", 500, 500), ui.add("PrimitiveFloat", 100, 600)
    note = expect(ui.plot().locator(".note"))
    ui.connect(schedule, apply, "schedule")
    ui.connect(budget, apply, "prune_ratio")
    note.to_have_text("For prune_ratio 0.66, the default: the connected AT-EDM Apply gets its own in the run.")
    ui.set(number, "value", 0.8)
    ui.connect(number, schedule, "early_percent")
    desc(ui).to_contain_text("until 80%")
    ui.connect(budget, schedule, "early_ratio")
    note.to_contain_text("another node gives it in the run: early_ratio.")


def test_stays_on_its_node_when_the_graph_is_made_anew(ui: Frontend) -> None:
    """Undo and loading replace a node by another of the same id within a moment."""
    node = ui.add("ATEDMSchedule")
    desc(ui).to_contain_text("until 30%")
    saved = ui.workflow()
    saved["nodes"][0]["widgets_values"][0] = 0.7
    ui.open(saved)
    desc(ui).to_contain_text("until 70%")
    expect(ui.plot()).to_have_count(1)
    ui.set(node, "early_percent", 0.1)
    desc(ui).to_contain_text("until 10%")


def test_leaves_no_trace_in_workflow_and_prompt(ui: Frontend) -> None:
    ui.add("ATEDMSchedule")
    expect(ui.plot()).to_have_count(1)
    (saved,) = ui.workflow()["nodes"]
    assert saved["widgets_values"] == [0.3, 0, "stage ends", "step", 1, 1, 1, 1]
    assert "plot" not in str(saved).lower()
    (queued,) = ui.prompt().values()
    levels = [f"{name}_level" for name in LEVEL_NAMES]
    assert list(queued["inputs"]) == ["early_percent", "early_ratio", "early_blocks", "ramp", *levels]


def test_lies_on_its_node_without_a_touch(ui: Frontend) -> None:
    """A node that a script adds, where nothing asks the canvas to draw again."""
    node = ui.add("ATEDMSchedule", 420, 260)
    expect(ui.plot()).to_have_count(1)
    left, top = ui.screen_place(node, 0, 0)
    ui.wait(
        "([left, top]) => { const box = document.querySelector('.atedm-plot').getBoundingClientRect();"
        " return box.x > left && box.y > top && box.width < 400 }",
        [left, top],
    )


def test_a_workflow_saved_without_the_plot_opens(ui: Frontend) -> None:
    ui.add("ATEDMSchedule")
    saved = ui.workflow()
    saved["nodes"][0]["size"] = [270, 226]
    ui.open(saved)
    desc(ui).to_contain_text("until 30%")
    box = ui.plot().bounding_box()
    assert box
    assert box["height"] > 150
    assert box["width"] > 200


def test_grows_with_its_node(ui: Frontend) -> None:
    node = ui.add("ATEDMSchedule")
    svg = ui.plot().locator("svg")
    expect(svg.locator("path.spared")).to_have_count(1)
    small = svg.bounding_box()
    ui.js("([id]) => { app.graph.getNodeById(id).setSize([640, 700]); app.canvas.setDirty(true, true) }", [node])
    ui.wait("([width]) => document.querySelector('.atedm-plot svg').clientWidth > width + 200", [small["width"]])
    ui.wait(
        "() => { const svg = document.querySelector('.atedm-plot svg');"
        " return Math.abs(svg.querySelector('.grid').getAttribute('x2') - (svg.clientWidth - 44)) < 1 }"
    )
    large = svg.bounding_box()
    assert small
    assert large
    assert large["height"] > small["height"] + 100


def test_stays_on_its_node_while_the_panel_at_the_side_shows_the_inputs(ui: Frontend) -> None:
    node = ui.add("ATEDMSchedule")
    ui.js("([id]) => app.canvas.selectNode(app.graph.getNodeById(id))", [node])
    expect(ui.plot()).to_have_count(1)
    alone = ui.plot().bounding_box()
    ui.side_panel(True)
    panel = ui.page.get_by_test_id("properties-panel")
    expect(panel).to_contain_text("early_percent")
    expect(panel).not_to_contain_text("dsap_plot")
    ui.set(node, "early_percent", 0.4)
    desc(ui).to_contain_text("until 40%")
    assert ui.plot().bounding_box() == alone
    ui.side_panel(False)


def test_speaks_to_those_who_do_not_see_it(ui: Frontend) -> None:
    ui.add("ATEDMSchedule")
    image = ui.page.get_by_role("img", name="Tokens dropped over the run")
    expect(image).to_have_count(1)
    expect(image).to_have_accessible_description(re.compile("^Spared blocks: 0% of the tokens"))
    # what stands in the cells, not what is laid out: the canvas does not lay out a node that it has not drawn yet
    cells = [row.locator("th, td").all_text_contents() for row in ui.plot().locator("table tr").all()]
    assert cells[1:4] == [["0%", "0%", "66%"], ["25%", "0%", "66%"], ["50%", "66%", "66%"]]


def test_is_read_with_the_keyboard_and_the_mouse(ui: Frontend) -> None:
    node = ui.add("ATEDMSchedule")
    note = expect(ui.plot().locator(".note"))
    note.to_contain_text("prune_ratio")
    place = ui.js("([id]) => [...app.graph.getNodeById(id).pos]", [node])
    ui.plot().focus()
    ui.page.keyboard.press("ArrowRight")
    note.to_have_text("0%: spared blocks 0%; other blocks 66%")
    for _ in range(6):
        ui.page.keyboard.press("ArrowRight")
    note.to_have_text("30%: all blocks 66%")
    expect(ui.plot().locator("line.cursor")).to_have_count(1)
    ui.page.keyboard.press("Escape")
    note.to_contain_text("prune_ratio")
    assert ui.js("([id]) => [...app.graph.getNodeById(id).pos]", [node]) == place
    box = ui.plot().locator("svg").bounding_box()
    assert box
    ui.page.mouse.move(box["x"] + 60, box["y"] + box["height"] / 2)
    note.to_contain_text("other blocks 66%")
    ui.page.mouse.move(5, 5)
    note.to_contain_text("prune_ratio")


def test_wheel_over_it_zooms_the_canvas(ui: Frontend) -> None:
    ui.add("ATEDMSchedule")
    expect(ui.plot().locator("path.spared")).to_have_count(1)
    ui.plot().hover()
    before = ui.js("() => app.canvas.ds.scale")
    ui.page.mouse.wheel(0, 300)
    ui.wait("([before]) => app.canvas.ds.scale < before", [before])


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_can_be_read_in_both_themes(ui: Frontend, palette: str) -> None:
    node = ui.add("ATEDMSchedule")
    for name, value in {"full_level": 0.0, "half_level": 0.5, "eighth_level": 1.5, "ramp": "linear"}.items():
        ui.set(node, name, value)
    ui.js("(id) => app.extensionManager.setting.set('Comfy.ColorPalette', id)", palette)
    shade = "(dark) => (getComputedStyle(document.body).getPropertyValue('--input-text').trim() > '#8') === dark"
    ui.wait(shade, palette == "dark")
    expect(ui.plot().locator("path.spared")).to_have_count(4)
    found = ui.js(CONTRAST)
    assert len(found["texts"]) > 8
    assert min(found["texts"]) >= 4.5
    assert min(found["lines"]) >= 3.0
