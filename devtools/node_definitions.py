"""What a node looks like, as a host's `/object_info` says it: its inputs, which are typed in, and their defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PLAIN_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
DRAWN_WIDGETS = ("IMAGECOMPARE",)
"""What the interface draws: neither connected nor saved, and queued with what stands for an empty one."""
NOTHING_DRAWN = {"__value__": ["", ""]}
SEEDS = ("seed", "noise_seed")


def inputs_of(definition: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """(name, (type, options)) of every input, in order. A list of choices is of type COMBO."""
    for category in ("required", "optional"):
        for name in definition["input_order"].get(category, []):
            kind, *rest = definition["input"][category][name]
            options = dict(rest[0]) if rest else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {"options": kind, **options}
            yield name, (kind, options)


def widgets_of(definition: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """Inputs that are typed in, in order."""
    for name, (kind, options) in inputs_of(definition):
        if kind in PLAIN_WIDGETS and not options.get("forceInput"):
            yield name, (kind, options)


def sockets_of(definition: Mapping[str, Any]) -> Iterator[str]:
    """Inputs that are connected."""
    typed = {name for name, _ in widgets_of(definition)}
    return (name for name, (kind, _) in inputs_of(definition) if name not in typed and kind not in DRAWN_WIDGETS)


def default_of(kind: str, options: Mapping[str, Any]) -> Any:
    """What an input holds before anybody types into it."""
    if "default" in options:
        return options["default"]
    if kind == "COMBO":
        return next(iter(options.get("options", [])), "")
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(kind, "")
