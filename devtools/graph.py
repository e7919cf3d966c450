"""A workflow as ComfyUI's user interface saves it, built from a few lines; and such a file as the API takes it.

What a node looks like is read from a host's `/object_info` (`node_definitions`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .model_files import models_of
from .node_definitions import DRAWN_WIDGETS, NOTHING_DRAWN, SEEDS, default_of, inputs_of, sockets_of, widgets_of

Definitions = Mapping[str, Mapping[str, Any]]

WIDTH = 330.0
NODE_GAP = 60.0  # a title bar of 30 is drawn above each node
COLUMN_GAP = 90.0
GROUP_MARGIN = 24.0
GROUP_TITLE = 76.0
GROUP_COLOR = "#3f789e"

_SPEAKING = ("ATEDMApply", "CATPruningApply", "StepForecastApply", "ATEDMAuto")
_BADGE = 44.0  # the line that a run leaves on these
_PREVIEWING = {
    "SaveImage": 320.0,
    "PreviewImage": 320.0,
    "LoadImage": 330.0,
    "ATEDMReport": 900.0,
    "PreviewAny": 420.0,
    "ImageCompare": 480.0,
}


@dataclass(frozen=True)
class Out:
    """One output of a node, to connect to an input."""

    node: Node
    slot: int


@dataclass
class Node:
    """A node as it is being built."""

    kind: str
    title: str
    definition: Mapping[str, Any]
    values: dict[str, Any]
    width: float
    number: int = 0
    position: tuple[float, float] = (0.0, 0.0)

    def __getitem__(self, name: str) -> Out:
        """An output by its type or its name."""
        for names in (self.definition["output"], self.definition["output_name"]):
            if name in names:
                return Out(self, list(names).index(name))
        raise KeyError(f"{self.kind} has no output {name!r}, only {self.definition['output_name']}")

    @property
    def height(self) -> float:
        """As high as it is drawn, roughly and rather more than less."""
        sockets = max(len(list(sockets_of(self.definition))), len(self.definition["output"]))
        height = 12.0 + 22.0 * sockets
        for name, (kind, options) in widgets_of(self.definition):
            height += 110.0 if kind == "STRING" and options.get("multiline") else 26.0
            height += 26.0 if name in SEEDS or options.get("control_after_generate") else 0.0
        return height + _PREVIEWING.get(self.kind, _BADGE if self.kind in _SPEAKING else 0.0)


@dataclass
class Note:
    """Text beside the nodes, in Markdown."""

    title: str
    text: str
    width: float = WIDTH

    @property
    def height(self) -> float:
        """As high as its text asks for, roughly."""
        letters = self.width / 7.6
        lines = sum(1 + len(line) // letters for line in self.text.splitlines())
        return 40.0 + 22.0 * lines


Item = Node | Note


@dataclass
class Graph:
    """Groups of nodes, each a column, from left to right."""

    definitions: Definitions
    groups: list[tuple[str, list[Item]]] = field(default_factory=list)

    def group(self, title: str) -> None:
        """Begin the next column."""
        self.groups.append((title, []))

    def node(self, kind: str, /, title: str = "", *, wide: float = WIDTH, **values: Any) -> Node:
        """Add a node; values are widget values or outputs of other nodes, everything else has its default."""
        made = Node(kind, title, self.definitions[kind], values, wide)
        unknown = set(values) - {name for name, _ in inputs_of(made.definition)}
        if unknown:
            raise KeyError(f"{kind} has no input {sorted(unknown)}")
        self.groups[-1][1].append(made)
        return made

    def note(self, text: str, title: str = "Note", width: float = WIDTH) -> None:
        """Add a note."""
        self.groups[-1][1].append(Note(title, text.strip(), width))

    def introduce(self, text: str) -> None:
        """Say before everything else when to use this."""
        self.groups[0][1].insert(0, Note("When to use this", text))

    def saved(self, name: str) -> dict[str, Any]:
        """The file. `name` gives it an id that stays the same from build to build."""
        boxes = self._place()
        items = [item for _, members in self.groups for item in members]
        nodes = [item for item in items if isinstance(item, Node)]
        for number, node in enumerate(nodes, 1):
            node.number = number
        links: list[list[Any]] = []
        saved = [self._saved_node(node, links) for node in nodes]
        for node, entry in zip(nodes, saved, strict=True):
            for slot, output in enumerate(entry["outputs"]):
                output["links"] = [link[0] for link in links if link[1:3] == [node.number, slot]]
        notes = [item for item in items if isinstance(item, Note)]
        saved += [self._saved_note(note, len(nodes) + i) for i, note in enumerate(notes, 1)]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"at-edm/{name}")),
            "revision": 0,
            "last_node_id": len(saved),
            "last_link_id": len(links),
            "nodes": saved,
            "links": links,
            "groups": boxes,
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [60, 60]}},
            "version": 0.4,
        }

    def _place(self) -> list[dict[str, Any]]:
        """Give everything a place; the boxes around the groups."""
        boxes = []
        x = 0.0
        for number, (title, members) in enumerate(self.groups, 1):
            y = GROUP_TITLE
            for item in members:
                item.position = (x + GROUP_MARGIN, y)  # type: ignore[union-attr]
                y += item.height + NODE_GAP
            width = max(item.width for item in members) + 2 * GROUP_MARGIN
            height = y - NODE_GAP + GROUP_MARGIN
            boxes.append(
                {
                    "id": number,
                    "title": title,
                    "bounding": [x, 0.0, width, height],
                    "color": GROUP_COLOR,
                    "font_size": 24,
                    "flags": {},
                }
            )
            x += width + COLUMN_GAP
        return boxes

    def _saved_node(self, node: Node, links: list[list[Any]]) -> dict[str, Any]:
        inputs: list[dict[str, Any]] = []
        widgets = dict(widgets_of(node.definition))
        for name, (kind, _) in inputs_of(node.definition):
            given = node.values.get(name)
            if kind in DRAWN_WIDGETS or (name in widgets and not isinstance(given, Out)):
                continue
            entry: dict[str, Any] = {"name": name, "type": kind, "link": None}
            if name in widgets:
                entry["widget"] = {"name": name}
            if isinstance(given, Out):
                link_type = given.node.definition["output"][given.slot]
                links.append([len(links) + 1, given.node.number, given.slot, node.number, len(inputs), link_type])
                entry["link"] = len(links)
            inputs.append(entry)
        definition = node.definition
        outputs = [
            {"name": name, "type": kind, "links": []}
            for name, kind in zip(definition["output_name"], definition["output"], strict=True)
        ]
        entry = {
            **_frame(node, node.number, node.kind),
            "inputs": inputs,
            "outputs": outputs,
            "properties": {"Node name for S&R": node.kind},
            "widgets_values": widget_values(node.definition, node.values),
        }
        if models := models_of(entry["widgets_values"]):
            entry["properties"]["models"] = models
        return {**entry, "title": node.title} if node.title else entry

    def _saved_note(self, note: Note, number: int) -> dict[str, Any]:
        sockets: dict[str, Any] = {"inputs": [], "outputs": [], "title": note.title, "properties": {}}
        return {**_frame(note, number, "MarkdownNote"), **sockets, "widgets_values": [note.text]}


def _frame(item: Item, number: int, kind: str) -> dict[str, Any]:
    place = {"id": number, "type": kind, "pos": list(item.position), "size": [item.width, item.height]}  # type: ignore[union-attr]
    return {**place, "flags": {}, "order": number - 1, "mode": 0}


def widget_values(definition: Mapping[str, Any], given: Mapping[str, Any]) -> list[Any]:
    """Values of all widgets in the order in which the interface saves them, its own extra widgets included."""
    values: list[Any] = []
    for name, (kind, options) in widgets_of(definition):
        value = given.get(name)
        values.append(default_of(kind, options) if value is None or isinstance(value, Out) else value)
        if name in SEEDS or options.get("control_after_generate"):
            values.append("fixed" if isinstance(value, Out) else "randomize")
        if options.get("image_upload"):
            values.append("image")
    return values


def to_api(workflow: Mapping[str, Any], definitions: Definitions) -> dict[str, dict[str, Any]]:
    """A saved workflow as `/prompt` takes it. Values that the file lacks get their default, as in the interface."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        definition = definitions[node["type"]]
        inputs: dict[str, Any] = {}
        values = iter(node["widgets_values"])
        for name, (kind, options) in widgets_of(definition):
            inputs[name] = next(values, default_of(kind, options))
            if name in SEEDS or options.get("control_after_generate"):
                next(values, None)
            if options.get("image_upload"):
                next(values, None)
        inputs |= {name: NOTHING_DRAWN for name, (kind, _) in inputs_of(definition) if kind in DRAWN_WIDGETS}
        inputs |= {entry["name"]: sources[entry["link"]] for entry in node["inputs"] if entry["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
