"""From measures of single pictures to lines of tables: medians, paired differences, and fewer steps at equal FLOPs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..captions import BATCH
from ..store import Store
from ..sweep import spots
from .cases import Case, Pruning, Row, Sampling

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


def lines(group: Sequence[Measured]) -> list[Line]:
    """Lines of a group's table, with the paired difference from the line of the pack's defaults where there is one."""
    fewer = [one for one in group if is_fewer_steps(one.row)]
    return [_line(one, _defaults(one.row, group), fewer) for one in group]


def is_fewer_steps(row: Row) -> bool:
    """Whether a row is the control of taking fewer steps."""
    return row.case.unpruned and row.against is not None


def _defaults(row: Row, group: Sequence[Measured]) -> Measured | None:
    wanted = Case(row.reference.sampling, Pruning(), replay=row.case.replay).key
    return next((one for one in group if one.row.case.key == wanted), None)


def _line(one: Measured, defaults: Measured | None, fewer: Sequence[Measured]) -> Line:
    psnr = one.of("psnr")
    line: Line = {
        "name": one.row.name,
        "key": one.row.case.key,
        "captions": one.row.captions,
        "pictures": len(psnr),
        "psnr": statistics.median(psnr),
        "psnr_quartiles": [float(value) for value in np.percentile(psnr, (25, 75))],
        "ssim": statistics.median(one.of("ssim")),
        "latent_error": statistics.median(one.of("latent_error")),
        "same_scene": statistics.fmean(one.of("same_scene")),
        "right": statistics.fmean(one.of("right")),
        "reference_right": statistics.fmean(one.of("reference_right")),
        "share": one.share("share"),
        "sdxl_share": one.share("sdxl_share"),
    }
    if defaults is not None and defaults is not one:
        line["against_defaults"] = _gap(psnr, defaults.of("psnr"))
    if fewer and not is_fewer_steps(one.row):
        for measure in ("share", "sdxl_share"):
            share = one.share(measure)
            if share is not None:
                control = fewer_steps_at(share, fewer)
                line[f"fewer_steps_at_{measure}"] = statistics.median(control)
                line[f"against_fewer_steps_at_{measure}"] = _gap(psnr, control)
    if one.row.case.replay:
        line["step_errors"] = np.median([picture["step_errors"] for picture in one.pictures], axis=0).tolist()
    return line


def _gap(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """By how much the pictures of one are nearer, caption by caption."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(gaps), "better": sum(gap > 0 for gap in gaps)}


def fewer_steps_at(share: float, fewer: Sequence[Measured]) -> list[float]:
    """PSNR per picture of an unpruned run with `share` of the steps, interpolated between whole numbers of steps.

    Where the next whole number is the full one, the largest smaller number stands for it, which is cheaper still.
    """
    known = sorted((one.row.case.sampling.steps / one.row.reference.sampling.steps, one.of("psnr")) for one in fewer)
    shares = [at for at, _ in known]
    return [float(np.interp(share, shares, column)) for column in zip(*(psnr for _, psnr in known), strict=True)]


def step_map(group: Sequence[Measured]) -> list[Line]:
    """For every sampler, number of steps and ratio: dB by which pruning is nearer than fewer steps at equal FLOPs.

    `own`: both against the unpruned run of the same number of steps. `stacked`: both against 50 steps, the control
    being the unpruned run of as many steps as the pruned run's FLOPs would pay for.
    """
    found = []
    for one in group:
        if one.row.case.pruning is None or one.row.against is not None:
            continue
        sampling, share = one.row.case.sampling, one.share("sdxl_share") or 1.0
        line: Line = {
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "ratio": one.row.case.pruning.schedule.prune_ratio,
            "ranking": one.row.case.pruning.control or "defaults",
            "sdxl_share": share,
            "share": one.share("share"),
            "psnr": statistics.median(one.of("psnr")),
            "same_scene": statistics.fmean(one.of("same_scene")),
        }
        control = [other for other in _controls(group, sampling) if other.row.case.sampling.steps < sampling.steps]
        if control:
            line |= _against(one, fewer_steps_at(share, control), "own")
            line |= _against(one, fewer_steps_at(one.share("share") or 1.0, control), "own_demo")
        longest = max(other.row.case.sampling.steps for other in group)
        twin = _find(group, one.row.case, replace(sampling, steps=longest))
        control = _controls(group, replace(sampling, steps=longest))
        if twin is not None and len(control) > 1:
            line |= _against(twin, fewer_steps_at(share * sampling.steps / longest, control), "stacked")
        found.append(line)
    return found


def _controls(group: Sequence[Measured], full: Sampling) -> list[Measured]:
    return [one for one in group if is_fewer_steps(one.row) and one.row.against == full]


def _find(group: Sequence[Measured], case: Case, against: Sampling) -> Measured | None:
    return next((one for one in group if one.row.case == case and one.row.against == against), None)


def _against(one: Measured, control: list[float], name: str) -> Line:
    gaps = [a - b for a, b in zip(one.of("psnr"), control, strict=True)]
    return {
        f"{name}_psnr": statistics.median(one.of("psnr")),
        f"{name}_fewer_steps": statistics.median(control),
        f"{name}_gain": statistics.median(gaps),
        f"{name}_better": sum(gap > 0 for gap in gaps),
        "pictures": len(gaps),
    }
