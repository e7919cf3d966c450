"""The last few runs that finished, for whoever asks after the fact which of them made a result.

A short list for the whole process, of plain numbers and small maps: not on the MODEL, which ComfyUI caches and others
clone, and not on modules.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ...report.record import RunRecord
from ...report.speed import Measured, compare
from .workflow import running_node, running_signature, upstream

MOST = 32
"""How many runs are kept. The oldest goes."""


@dataclass(frozen=True)
class Finished:
    """A run: the method object of the node that patched its model, and the signature of its sampler node."""

    method: object
    sampler: str | None
    record: RunRecord


_finished: deque[Finished] = deque(maxlen=MOST)


def report_is_wanted() -> bool:
    """Whether a report node is in the workflow that is being executed."""
    running = running_node()
    return running is not None and any(node.get("class_type") == "ATEDMReport" for node in running[0].values())


def keep_record(method: object, record: RunRecord) -> None:
    """Keep the record of the run that has just ended."""
    _finished.append(Finished(method, running_signature(), record))


def find_record(method: object, result_input: str) -> tuple[RunRecord | None, bool]:
    """The run of a patched model that made what is connected to an input of the running node, and whether it surely is.

    Where the result cannot be traced to a sampler, as when it came from a file, it is the model's last run, and
    `False`. Without a run, `None`.
    """
    runs = [run for run in reversed(_finished) if run.method == method]
    running = running_node()
    if running is not None:
        for sampler in upstream(*running, result_input):
            for run in runs:
                if run.sampler == sampler:
                    return run.record, True
    # equal settings on another model are another model's runs
    own = [run.record for run in runs if run.method is method]
    return (own[0], running is None) if own else (None, False)


def measured_speed(record: RunRecord) -> Measured | None:
    """How many times as fast runs like this one were than those that left nothing out; `None` where it was not seen."""
    alike = [run.record for run in _finished if record.is_like(run.record)]
    same = [run for run in alike if run.pruned and run.settings == record.settings]
    return compare(same, [run for run in alike if not run.pruned])


def forget_all() -> None:
    """Forget every run."""
    _finished.clear()
