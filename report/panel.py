"""What a report's node shows beside its pictures: plain numbers, for a page that has the words in its language."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from .distance import Distance
from .record import RunRecord
from .speed import LEAST_RUNS, Measured


def panel_of(record: RunRecord, measured: Measured | None, distances: Sequence[tuple[str, Distance]]) -> dict[str, Any]:
    """JSON of a run. `distances` are from the full model's picture."""
    why = None if record.pruned else record.reason
    real = sum(one.real for one in record.evaluations)
    errors = record.forecast_errors
    return {
        "method": record.wording.method,
        "unpruned": record.wording.unpruned,
        "left_out": record.pruned,
        "speed": None if measured is None else vars(measured),
        "least_runs": LEAST_RUNS,
        "ideal": record.ideal_speed_up,
        "saved": record.saved_share,
        "seconds": record.seconds_per_step,
        "steps": record.steps,
        "distances": {name: vars(distance) for name, distance in distances},
        "tokens": record.spent.kept_share if record.places else None,
        "evaluations": [real, len(record.evaluations)] if record.evaluations else None,
        "error": median(errors) if errors else None,
        "why": None if why is None else why.as_json(),
    }
