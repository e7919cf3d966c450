"""What has been measured of a row, and what fewer steps at the same cost would have given."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .captions import BATCH
from .cases import Row
from .store import Store
from .sweep import spots

Line = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """A row with what was measured of it, one entry per picture, in the order of its captions."""

    row: Row
    pictures: list[dict[str, Any]]

    def of(self, measure: str) -> list[float]:
        """One number per picture; empty where the measure does not apply."""
        return [one[measure] for one in self.pictures if measure in one]

    def share(self, measure: str) -> float | None:
        """`share` or `sdxl_share`: of the FLOPs of the unpruned reference, the mean over pictures."""
        values = self.of(measure)
        return statistics.fmean(values) if values else None


def measured(rows: Sequence[Row], store: Store) -> list[Measured]:
    """The rows on the captions that all of them were measured on; rows without any are left out."""
    counts = {row.name: _pictures_there(row, store) for row in rows}
    there = [row for row in rows if counts[row.name] > 0]
    if not there:
        return []
    count = min(counts[row.name] for row in there)
    return [Measured(row, pictures_of(row, store, count)) for row in there]


def pictures_of(row: Row, store: Store, count: int) -> list[dict[str, Any]]:
    """Measures of the first `count` captions of a row."""
    found = [picture for spot in spots(row) for picture in store.measures(spot)]
    return found[:count]


def _pictures_there(row: Row, store: Store) -> int:
    """How many captions from the first on have been measured."""
    for done, spot in enumerate(spots(row)):
        if not store.has(spot):
            return done * BATCH
    return row.count


def is_fewer_steps(row: Row) -> bool:
    """Whether a row is the control of taking fewer steps."""
    return row.case.unpruned and row.against is not None


def fewer_steps_at(share: float, fewer: Sequence[Measured]) -> list[float]:
    """PSNR per picture of an unpruned run with `share` of the steps, interpolated between whole numbers of steps.

    Where the next whole number is the full one, the largest smaller number stands for it, which is cheaper still.
    """
    known = sorted((one.row.case.sampling.steps / one.row.reference.sampling.steps, one.of("psnr")) for one in fewer)
    shares = [at for at, _ in known]
    return [float(np.interp(share, shares, column)) for column in zip(*(psnr for _, psnr in known), strict=True)]
