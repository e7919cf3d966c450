"""The example workflows as files: readable on the canvas, complete, with a picture for the template browser."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from repo_files import ROOT

from demo.thumbnails import DIAGRAMS, PROMPTS
from devtools.workflows import WORKFLOWS

FOLDER = ROOT / "example_workflows"
FILES = sorted(FOLDER.glob("*.json"))
TITLE_BAR = 30.0
LEAST_GAP = 10.0
Box = tuple[float, float, float, float]

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def node_box(node: dict[str, Any]) -> Box:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_BAR, x + width, y + height


def group_box(group: dict[str, Any]) -> Box:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def apart(one: Box, other: Box) -> bool:
    return any(one[i] + 0.0 >= other[i + 2] + LEAST_GAP or other[i] >= one[i + 2] + LEAST_GAP for i in (0, 1))


def test_every_example_is_there_with_its_picture() -> None:
    assert {path.stem for path in FILES} == set(WORKFLOWS)
    assert {path.stem for path in FOLDER.glob("*.jpg")} == set(WORKFLOWS)
    assert {path.suffix for path in FOLDER.iterdir()} == {".json", ".jpg"}


def test_every_picture_can_be_made_anew() -> None:
    assert {*PROMPTS, *DIAGRAMS} == set(WORKFLOWS)


@each_file
def test_nothing_overlaps(path: Path) -> None:
    workflow = read(path)
    for one, other in combinations(workflow["nodes"], 2):
        assert apart(node_box(one), node_box(other)), (one["type"], other["type"])
    for one, other in combinations(workflow["groups"], 2):
        assert apart(group_box(one), group_box(other)), (one["title"], other["title"])


@each_file
def test_every_node_is_in_one_group(path: Path) -> None:
    workflow = read(path)
    for node in workflow["nodes"]:
        left, top, right, bottom = node_box(node)
        around = [group_box(group) for group in workflow["groups"]]
        inside = [box for box in around if box[0] < left and box[1] < top and right < box[2] and bottom < box[3]]
        assert len(inside) == 1, node["type"]


@each_file
def test_links_agree_on_both_sides(path: Path) -> None:
    workflow = read(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == len(workflow["links"])
    for number, source, out_slot, target, in_slot, kind in workflow["links"]:
        output, entry = nodes[source]["outputs"][out_slot], nodes[target]["inputs"][in_slot]
        assert number in output["links"]
        assert entry["link"] == number
        assert output["type"] == kind
        assert kind in entry["type"].split(",") or entry["type"] == "*"
    taken = [entry["link"] for node in nodes.values() for entry in node["inputs"] if entry["link"] is not None]
    assert sorted(taken) == [link[0] for link in workflow["links"]]


@each_file
def test_every_example_prunes_and_explains_itself(path: Path) -> None:
    kinds = [node["type"] for node in read(path)["nodes"]]
    assert {"ATEDMApply", "CATPruningApply"} & set(kinds)
    assert "MarkdownNote" in kinds


@each_file
def test_pictures_are_small_and_square(path: Path) -> None:
    picture = path.with_suffix(".jpg")
    assert picture.stat().st_size < 150_000
    with Image.open(picture) as image:
        assert image.size == (512, 512)


def test_the_readme_counts_them() -> None:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    (line,) = (line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "template" in line)
    named = [name for name in WORKFLOWS if f"*{name}*" in line]
    assert named
    assert f"{words[len(WORKFLOWS) - len(named)]} more are in the template browser" in line
