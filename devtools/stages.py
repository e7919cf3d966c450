"""Stages done once: remembered on disk, redone when what they depend on changed, resumed after an interruption."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .console import say
from .lock import only_one


@dataclass(frozen=True)
class Stage:
    """One step of a setup. `inputs` is what it depends on; `intact` tells whether its result is still there."""

    name: str
    inputs: str
    action: Callable[[], None]
    intact: Callable[[], bool]


def _keys(stages: Sequence[Stage]) -> list[str]:
    """A key per stage that changes when it or any stage before it changes."""
    digest = hashlib.sha256()
    keys = []
    for stage in stages:
        digest.update(f"{stage.name}\0{stage.inputs}\0".encode())
        keys.append(digest.copy().hexdigest())
    return keys


def _read(stamps: Path) -> dict[str, str]:
    try:
        found = json.loads(stamps.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(stamps: Path, done: dict[str, str]) -> None:
    """Replace the file in one move, so that an interruption never leaves half of it."""
    stamps.parent.mkdir(parents=True, exist_ok=True)
    fresh = stamps.with_suffix(".new")
    fresh.write_text(json.dumps(done, indent=1), encoding="utf-8")
    fresh.replace(stamps)


def first_open(stages: Sequence[Stage], done: dict[str, str]) -> int:
    """The index of the first stage that has to run; the number of stages when all is done."""
    for index, (stage, key) in enumerate(zip(stages, _keys(stages), strict=True)):
        if done.get(stage.name) != key or not stage.intact():
            return index
    return len(stages)


def run_stages(stages: Sequence[Stage], stamps: Path) -> bool:
    """Run what is open, in order; whatever stands after a stage that runs, runs too. Returns whether anything ran."""
    if first_open(stages, _read(stamps)) == len(stages):
        return False
    with only_one(stamps.with_suffix(".lock")):
        start = first_open(stages, _read(stamps))  # once more: someone else may have done it meanwhile
        _run_from(start, stages, stamps)
    return start < len(stages)


def _run_from(start: int, stages: Sequence[Stage], stamps: Path) -> None:
    if start == len(stages):
        return
    keys = _keys(stages)
    done = {stage.name: keys[index] for index, stage in enumerate(stages[:start])}
    _write(stamps, done)  # also forgets stages of other commands: they stood on what is now made anew
    for index in range(start, len(stages)):
        began = time.monotonic()
        say(f"[{index + 1}/{len(stages)}] {stages[index].name} ...")
        stages[index].action()
        done[stages[index].name] = keys[index]
        _write(stamps, done)
        say(f"      done in {time.monotonic() - began:.1f} s")
