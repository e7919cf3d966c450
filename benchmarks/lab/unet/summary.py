"""From measures of single pictures to lines of tables: medians, paired differences, and fewer steps at equal FLOPs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..cases import Row, Sampling
from ..summary import Line, Measured, fewer_steps_at, is_fewer_steps
from .cases import Case, Pruning


def lines(group: Sequence[Measured]) -> list[Line]:
    """Lines of a group's table, with the paired difference from the line of the pack's defaults where there is one."""
    fewer = [one for one in group if is_fewer_steps(one.row)]
    return [_line(one, _defaults(one.row, group), fewer) for one in group]


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
        "gmsd": statistics.median(one.of("gmsd")),
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
