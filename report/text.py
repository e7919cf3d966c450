"""A run's record in words and a table, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from statistics import median

from .distance import Distance
from .record import PlaceRecord, RunRecord
from .speed import LEAST_RUNS, Measured

_LINE = 100
_NAME = 10
_UNITS = ((1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"))


def headline(record: RunRecord) -> str:
    """One sentence."""
    wording, spent = record.wording, record.spent
    if not record.pruned:
        return f"{wording.method}: nothing was left out, the model ran as it is"
    told = []
    if record.evaluations:
        told.append(f"{record.real_share:.1%} of evaluations real")
    if record.places:
        told.append(f"{spent.kept_share:.1%} of tokens {wording.kept}")
    if wording.part and record.places and not record.evaluations:
        told.append(
            f"{spent.saved_share:.1%} of {wording.part} FLOPs and {record.saved_share:.1%} of the model's saved"
        )
    else:
        told.append(f"{record.saved_share:.1%} of the model's FLOPs saved")
    return f"{wording.method}: {', '.join(told)}"


def describe_run(
    record: RunRecord, measured: Measured | None = None, distances: Sequence[tuple[str, Distance]] = ()
) -> str:
    """Everything the record holds but the maps, what matters first: speed, distance, then what was left out.

    Args:
        record: of the run.
        measured: against runs that left nothing out, where there are enough.
        distances: from the full model's picture, by what is that far from it.
    """
    height, width = record.latent
    pictures = "1 picture" if record.samples == 1 else f"{record.samples} pictures"
    lines = [headline(record), ""]
    lines += _row("speed", *_speed(record, measured))
    lines += _row("away", *(f"{name}: {_distance(distance)}" for name, distance in distances))
    lines += _row("time", f"{record.seconds:.2f} s of sampling, {record.seconds_per_step:.3f} s a step")
    lines += _row("run", f"{record.steps} steps, {pictures}, latent {width} x {height}{_calls(record)}")
    lines += _row("real", *_evaluations(record))
    lines += _row("FLOPs", *_flops(record))
    settings = ", ".join(f"{name} {value}" for name, value in record.settings)
    rest = [*record.details, ("set to", textwrap.wrap(settings, _LINE)), *(("note", note) for note in record.notes)]
    for name, text in rest:
        lines += _row(name, *([text] if isinstance(text, str) else text))
    table = _table(record) if record.places else []
    return "\n".join([*lines, "", *table]).rstrip()


def _distance(distance: Distance) -> str:
    return f"PSNR {distance.psnr:.1f} dB, SSIM {distance.ssim:.3f} from the reference"


def _evaluations(record: RunRecord) -> list[str]:
    if not record.evaluations:
        return []
    real, total = sum(one.real for one in record.evaluations), len(record.evaluations)
    errors = record.forecast_errors
    off = f"; a forecast was off by {median(errors):.2%} (median), {max(errors):.2%} at most" if errors else ""
    return [f"{real} of {total} evaluations, {total - real} forecast{off}"]


def _row(name: str, *texts: str) -> list[str]:
    return [f"{name if i == 0 else '':<8}{text}" for i, text in enumerate(text for text in texts if text)]


def _calls(record: RunRecord) -> str:
    if not record.calls:
        return ""
    conditions = "1 condition" if record.conditions == 1 else f"each of {record.conditions} conditions"
    return f", {_each(record, record.calls)} model calls for {conditions}"


def _each(record: RunRecord, calls: int) -> str:
    """Calls per condition; they may differ between conditions."""
    return f"{calls / max(1, record.conditions):.4g}"


def _speed(record: RunRecord, measured: Measured | None) -> list[str]:
    if not record.pruned:
        return []
    unpruned = record.wording.unpruned
    if measured is None:
        how = f"not enough runs to say: run the same {LEAST_RUNS} times, and {LEAST_RUNS} times with {unpruned}"
        return [f"{record.ideal_speed_up:.2f}x predicted from FLOPs", f"measured: {how}"]
    spread = f"{measured.low:.2f}x to {measured.high:.2f}x in single runs"
    runs = f"{measured.runs} runs and {measured.baselines} with {unpruned}, without their first steps"
    return [
        f"{measured.speed_up:.2f}x measured ({spread}; {runs})",
        f"{record.ideal_speed_up:.2f}x predicted from FLOPs",
    ]


def _flops(record: RunRecord) -> list[str]:
    spent = record.spent
    if not spent.flops_full:
        return []
    planned = "" if record.planned is None else f", {record.planned:.1%} planned"
    model_full = spent.flops_full + record.other_flops
    model = model_full - spent.flops_full + spent.flops
    of_model = f"{_amount(model, model_full)}, {record.model_saved_share:.1%} saved"
    if not record.wording.part:
        return [f"{of_model}{planned}"]
    part = f"{record.wording.part}s"
    of_part = f"{part} {_amount(spent.flops, spent.flops_full)}, {spent.saved_share:.1%} saved{planned}"
    return [of_part, f"{'whole model':<{len(part)}} {of_model}"]


def _unit(flops: float) -> tuple[float, str]:
    return next((unit for unit in _UNITS if flops >= unit[0]), _UNITS[-1])


def _amount(spent: int, full: int) -> str:
    unit, name = _unit(full)
    return f"{spent / unit:.3f} of {full / unit:.3f} {name}"


def _table(record: RunRecord) -> list[str]:
    unit, name = _unit(max((place.spent.flops_full for place in record.places), default=0))
    rows = record.rows()
    listed = [place for _, places in rows for place in places]
    if not record.spent.calls:
        return [f"{place.name}: {place.whole_because}" for place in listed if place.whole_because]
    width = max(_NAME, *(len(place.name) for place in listed))
    head = f"{record.wording.place:<{width + 2}}{'tokens':>10}{record.wording.kept:>9}"
    lines = [f"{head}{name + ' full':>14}{'pruned':>9}{'saved':>8}  all tokens in"]
    for group, places in rows:
        if len(rows) > 1:
            lines.append(group)
        lines += [_place_row(record, place, unit, width) for place in places]
    return lines


def _place_row(record: RunRecord, place: PlaceRecord, unit: float, width: int) -> str:
    spent = place.spent
    in_full = spent.calls - spent.pruned_calls
    because = f"  {place.whole_because}" if place.whole_because and not spent.calls else ""
    if in_full:
        because = f"  {_each(record, in_full)} of {_each(record, spent.calls)} calls: {place.whole_because}"
    return (
        f"  {place.name:<{width}}{place.size:>10}{spent.kept_share:>9.1%}{spent.flops_full / unit:>14.3f}"
        f"{spent.flops / unit:>9.3f}{spent.saved_share:>8.1%}{because}"
    )
