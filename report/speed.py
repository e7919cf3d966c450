"""How many times as fast, by the clock: over several runs of both kinds, or not at all.

One run beside one run says little on a machine that does anything else, and a run's first step warms up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .record import RunRecord

LEAST_RUNS = 3
"""Of either kind. Fewer do not show how far runs are apart."""
_WARM_UP = 1


@dataclass(frozen=True)
class Measured:
    """A speed-up, and between which two it lies in single runs; from so many runs and baselines."""

    speed_up: float
    low: float
    high: float
    runs: int
    baselines: int


def timed(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs whose every step was timed, of which there are more than the one that warms up."""
    return [run for run in runs if len(run.step_seconds) == run.steps > _WARM_UP]


def compare(runs: Sequence[RunRecord], baselines: Sequence[RunRecord]) -> Measured | None:
    """Runs that did the same beside those that left nothing out; `None` where either are too few."""
    own, others = timed(runs), timed(baselines)
    if min(len(own), len(others)) < LEAST_RUNS:
        return None
    own_totals, other_totals = _totals(own), _totals(others)
    if min(_typical(own), *own_totals) <= 0.0:
        return None
    low, high = min(other_totals) / max(own_totals), max(other_totals) / min(own_totals)
    return Measured(_typical(others) / _typical(own), low, high, len(own), len(others))


def _totals(runs: Sequence[RunRecord]) -> list[float]:
    return [sum(run.step_seconds[_WARM_UP:]) for run in runs]


def _typical(runs: Sequence[RunRecord]) -> float:
    """Seconds of a run after its warm-up: of each step the median over the runs, since steps differ by what they do."""
    steps = zip(*(run.step_seconds[_WARM_UP:] for run in runs), strict=True)
    return sum(median(seconds) for seconds in steps)
