"""Draws prompts in every way through a running ComfyUI, and times each run."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from devtools.console import say
from devtools.graph import to_api
from devtools.server import Server

from .timing import Progress, turns
from .ways import FULL, Way, carried, fewer_steps, methods, recorded, workflow
from .workflow import Loader, Sampling

WARM_UP_STEPS = 2
PRUNED_COST = 0.8  # of a run in full, roughly: for the time left before it is known


@dataclass(frozen=True)
class Drawn:
    """One run.

    Attributes:
        way: of drawing.
        pictures: a batch.
        record: what the recording node wrote: seconds, evaluations and, where tokens were pruned, FLOPs and blocks.
        carried: what the pictures carry for ComfyUI.
    """

    way: Way
    pictures: tuple[Image.Image, ...]
    record: dict[str, Any]
    carried: PngInfo


@dataclass(frozen=True)
class Row:
    """All runs of one prompt and seed, by the name of the way."""

    prompt: str
    seed: int
    runs: dict[str, Drawn]


@dataclass(frozen=True)
class Task:
    """What to draw."""

    loader: Loader
    sampling: Sampling
    prompts: Sequence[str]
    seed: int
    prune_ratio: float
    speed_up: float

    @property
    def methods(self) -> tuple[Way, Way]:
        """Put beside the run in full."""
        return methods(self.prune_ratio, self.speed_up)


class Easel:
    """Runs workflows on a server that has the recording node."""

    def __init__(self, server: Server, task: Task) -> None:
        self._server = server
        self._task = task
        self._definitions = server.get("/object_info")
        self._runs = 0

    def draw(self, prompt: str, seed: int, way: Way, sampling: Sampling | None = None) -> Drawn:
        """One batch."""
        sampling = sampling or self._task.sampling
        saved = workflow(self._definitions, self._task.loader, sampling, prompt, seed, way)
        self._runs += 1
        name = f"run-{self._runs}"
        queued = recorded(to_api(saved, self._definitions), self._task.loader, name, sampling.size)
        outputs = self._server.run(queued)["outputs"]
        (images,) = (found["images"] for found in outputs.values() if "images" in found)
        pictures = tuple(Image.open(io.BytesIO(self._server.view(one))).convert("RGB") for one in images)
        file = self._server.host.base / "output" / "recorded" / f"{name}.json"
        record = json.loads(file.read_text(encoding="utf-8"))
        return Drawn(way, pictures, record, carried(saved, self._definitions))

    def warm_up(self) -> None:
        """Loads the model and runs everything that is timed once; with few steps, and not counted."""
        short = replace(self._task.sampling, steps=WARM_UP_STEPS)
        for way in (FULL, *self._task.methods):
            self.draw(self._task.prompts[0], self._task.seed, way, short)


def cost_share(run: Drawn, full: Drawn) -> float:
    """FLOPs of the model in a run over those in the run in full; choosing tokens and forecasting are not in it."""
    share = run.record["evaluations"] / full.record["evaluations"]
    if "unet_flops" in run.record:
        share *= run.record["unet_flops"] / run.record["unet_flops_full"]
    return float(share)


def draw_all(server: Server, task: Task, seconds: float, after: float) -> list[Row]:
    """Every prompt in every way, with one seed each.

    Args:
        server: a running ComfyUI.
        task: what to draw.
        seconds: no prompt is begun that would end later than so many seconds from now; the first always is.
        after: seconds of what follows, for the time left.
    """
    easel = Easel(server, task)
    began = time.monotonic()
    say("  loading the model and running everything once, which does not count")
    easel.warm_up()
    ways = {way.name: way for way in (FULL, *task.methods)}
    costs = {way.name: 1 / way.speed_up if way.speed_up else PRUNED_COST for way in task.methods} | {FULL.name: 1.0}
    of_prompt = 2 * sum(costs.values()) - 1.0  # every method has a control of the same cost
    progress = Progress(of_prompt * len(task.prompts), len(task.prompts) * (2 * len(ways) - 1), seconds, after)
    progress.start()
    rows: list[Row] = []
    for index, prompt in enumerate(task.prompts):
        started, seed, runs = time.monotonic(), task.seed + index, {}
        for name in turns(list(ways), index):
            runs[name] = easel.draw(prompt, seed, ways[name])
            progress.done(costs[name], f"{ways[name].title}, {runs[name].record['seconds']:.1f} s")
        for way in task.methods:
            control = fewer_steps(way, cost_share(runs[way.name], runs[FULL.name]), task.sampling.steps)
            runs[control.name] = easel.draw(prompt, seed, control)
            progress.done(costs[way.name], f"{control.title}, {runs[control.name].record['seconds']:.1f} s")
        rows.append(Row(prompt, seed, runs))
        spent = time.monotonic() - began
        if index + 1 < len(task.prompts) and spent + (time.monotonic() - started) > seconds:
            say(f"  This machine is slow or busy: {len(rows)} of {len(task.prompts)} prompts have to do.")
            break
    return rows
