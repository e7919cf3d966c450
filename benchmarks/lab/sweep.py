"""Runs what is missing of a list of rows, a batch at a time, each kept as soon as it is there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..measure import ROOT
from .captions import BATCH, Caption, batch, batches
from .cases import Case, Row, Sampling
from .drawing import Drawn, Trajectory
from .measures import compare
from .store import Spot, Store


class Session(Protocol):
    """A model that is loaded and draws the cases of its lab."""

    def draw(
        self, case: Any, captions: tuple[Caption, ...], *, record: bool = False, shown: Trajectory | None = None
    ) -> Drawn:
        """A batch of pictures: a run whose every step is kept, or one that is shown the latents of another."""


RECORDED = Sampling()
"""Unpruned runs of this sampling keep every step, for replays."""
TURNS = {
    "main": (0.0, 0.2),
    "selection": (0.0, 0.5),
    "recovery": (0.0, 0.5),
    "schedule": (0.1, 0.5),
    "points": (0.2, 0.5),
    "levels": (0.2, 0.5),
    "steps": (-1.0, 2.0),
    "progress": (0.4, 0.5),
    "ranking": (0.4, 0.5),
}
LATER = (0.4, 0.5)
"""When the first batch of a group has its turn, and how much later each further one: what the defaults are chosen by
comes first. The step map is as long as all other groups together: its first batch is spread over the others' first
batches, short runs before long ones."""
CALLS_PER_STEP = {"heun": 2, "dpm_2": 2, "dpmpp_sde": 2, "dpmpp_2s_ancestral": 2}


def spots(row: Row) -> list[Spot]:
    """What has to be measured for a row."""
    return [Spot(row.case.key, row.reference.key, row.captions, number) for number in range(batches(row.count))]


def missing(rows: Sequence[Row], store: Store, worker: int = 0, workers: int = 1) -> list[tuple[Row, Spot]]:
    """What is not measured yet, each once: the first captions of all rows come before further captions of any.

    So tables can be made early and get better. A batch stays with one worker for all cases, so that none draws a
    reference that another is drawing.
    """
    found: dict[Spot, Row] = {}
    for row in rows:
        for spot in spots(row):
            if spot.batch % workers == worker and not store.has(spot):
                found.setdefault(spot, row)

    def turn(spot: Spot) -> float:
        row = found[spot]
        start, pace = TURNS.get(row.group, LATER)
        long = max(row.case.sampling.steps, min(row.reference.sampling.steps, 20)) / 40 if row.group == "steps" else 0.0
        return start + pace * spot.batch + long

    return [(found[spot], spot) for spot in sorted(found, key=turn)]


def weight(row: Row) -> int:
    """Model calls of a batch, as a measure of how long it takes."""
    return row.case.sampling.steps * CALLS_PER_STEP.get(row.case.sampling.sampler, 1)


def run(
    rows: Sequence[Row],
    store: Store,
    session: Session,
    worker: int = 0,
    workers: int = 1,
    done: Callable[[Row], None] = lambda row: None,
) -> None:
    """Draw and measure what is missing; `done` is told after each batch."""
    for row, spot in missing(rows, store, worker, workers):
        measure(row, spot, store, session)
        done(row)


def measure(row: Row, spot: Spot, store: Store, session: Session) -> None:
    """Draw what is not there of one spot, and measure it."""
    reference = _drawn(row.reference, spot, store, session)
    drawn = _drawn(row.case, spot, store, session, reference.trajectory)
    found = []
    for i, one in enumerate(batch(spot.captions, spot.batch)):
        values = compare(drawn.pictures[i], drawn.latents[i], reference.pictures[i], reference.latents[i], one.scene)
        values["share"] = drawn.info["flops"] / reference.info["flops"]
        if "sdxl_flops" in drawn.info:
            values["sdxl_share"] = drawn.info["sdxl_flops"] / reference.info["sdxl_flops"]
        values["calls"] = drawn.info["calls"]
        if row.case.replay:
            assert drawn.trajectory is not None
            assert reference.trajectory is not None
            values["step_errors"] = step_errors(drawn.trajectory, reference.trajectory, i)
        found.append(values)
    store.add(spot, found)


def step_errors(drawn: Trajectory, reference: Trajectory, picture: int) -> list[float]:
    """Relative error of the guided velocity, the U-Net's own output under guidance, at each step of a replay.

    Both predicted from the same latent x, so the difference of their velocities is that of their clean latents times
    sqrt(sigma^2 + 1) / sigma, and the true velocity is (x / (sigma^2 + 1) - clean) times the same.
    """
    errors = []
    for step, sigma in enumerate(reference.sigmas.astype(np.float64)):
        clean = reference.predictions[step, picture].astype(np.float64)
        velocity = reference.latents[step, picture] / (sigma**2 + 1) - clean
        gap = drawn.predictions[step, picture] - clean
        errors.append(round(float(np.linalg.norm(gap) / np.linalg.norm(velocity)), 6))
    return errors


def _drawn(case: Case, spot: Spot, store: Store, session: Session, shown: Trajectory | None = None) -> Drawn:
    found = store.load(case, spot.captions, spot.batch)
    if found is not None:
        return found
    record = case.unpruned and case.sampling == RECORDED
    captions = batch(spot.captions, spot.batch)
    drawn = session.draw(case, captions, record=record, shown=shown if case.replay else None)
    store.keep(case, spot.captions, spot.batch, drawn)
    return drawn


def run_in_processes(module: str, rows: Sequence[Row], store: Store, workers: int, arguments: Sequence[str]) -> None:
    """The same in several processes of one thread each; `arguments` are those with which `module` runs the rows."""
    started = [
        subprocess.Popen([sys.executable, "-m", module, *arguments, "--part", f"{part}/{workers}"], cwd=ROOT)
        for part in range(workers)
    ]
    try:
        with bar(rows, store) as tell:
            while any(process.poll() is None for process in started):
                time.sleep(2)
                store.reload()
                tell()
    finally:
        for process in started:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
    failed = [process.returncode for process in started if process.returncode]
    store.reload()
    if failed:
        raise RuntimeError("a worker of the fidelity lab failed; what it said stands above")


class bar:  # noqa: N801 - used as `with bar(...)`
    """Progress with the time left, counted in pictures and weighed by model calls."""

    def __init__(self, rows: Sequence[Row], store: Store) -> None:
        self._weights = {spot: weight(row) for row in rows for spot in spots(row)}
        self._store = store
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._task: Any = None

    def __enter__(self) -> Callable[..., None]:
        self._progress.start()
        finished = self._finished()
        self._task = self._progress.add_task("", total=sum(self._weights.values()) - finished)
        self._begun = finished
        self._tell()
        return self._tell

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def _finished(self) -> int:
        return sum(value for spot, value in self._weights.items() if self._store.has(spot))

    def _tell(self, row: Row | None = None) -> None:
        there = sum(self._store.has(spot) for spot in self._weights)
        text = f"{there * BATCH} of {len(self._weights) * BATCH} pictures measured"
        if row is not None:
            text += f", {row.group}: {row.name}"
        self._progress.update(self._task, completed=self._finished() - self._begun, description=text)
