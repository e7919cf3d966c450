"""Markdown tables of the lab's lines, for the results folder and for the document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...printing import markdown
from ..summary import Line

TITLES = {
    "main": "The defaults, the paper's recipe and the controls",
    "selection": "Which tokens stay",
    "recovery": "What a dropped token gets back, and from which stand-in",
    "temporal": "Temporal recovery",
    "schedule": "Schedules that spend the same FLOPs on SDXL",
    "points": "Where in the block tokens are dropped",
    "ratio": "How many tokens are dropped",
    "steps": "Pruning against fewer steps",
    "peers": "Other accelerators",
    "ranking": "How the ranking is made",
    "levels": "Resolution levels",
    "samplers": "Samplers",
    "cfg": "Guidance",
    "progress": "Errors of single steps over progress",
    "time": "Seconds on the demo model",
}
STEP_KINDS = {"own": "own picture", "stacked": "50-step picture"}


def table(group: str, found: Sequence[Line]) -> str:
    """The table of a group, or of the step map."""
    if not found:
        return "Not measured yet."
    if group == "steps":
        there = [kind for kind in STEP_KINDS if any(f"{kind}_gain" in line for line in found)]
        return "\n\n".join(step_table(found, kind) for kind in there) or "Not measured yet."
    if group == "progress":
        return _progress_table(found)
    if group == "time":
        return _time_table(found)
    pictures, name = found[0]["pictures"], found[0]["captions"]
    rows = [_cells(line) for line in found]
    head = ["", "PSNR, dB", "quartiles", "SSIM", "latent error", "same scene", "right", "FLOPs", "on SDXL"]
    if any("against_defaults" in line for line in found):
        head.append("to the defaults")
        for row, line in zip(rows, found, strict=True):
            row.append(_difference(line, "against_defaults"))
    if any("fewer_steps_at_sdxl_share" in line for line in found):
        head.append("fewer steps, same FLOPs / same on SDXL")
        for row, line in zip(rows, found, strict=True):
            row.append(
                f"{_number(line.get('fewer_steps_at_share'))} / {_number(line.get('fewer_steps_at_sdxl_share'))}"
            )
        head.append("to fewer steps, same on SDXL")
        for row, line in zip(rows, found, strict=True):
            row.append(_difference(line, "against_fewer_steps_at_sdxl_share"))
    right = found[0]["reference_right"]
    note = f"{pictures} captions of the set *{name}*; the unpruned pictures are right in {right:.1%}."
    return markdown(head, rows) + f"\n\n{note}"


def step_table(found: Sequence[Line], kind: str) -> str:
    """dB gained over fewer steps at SDXL's FLOPs, samplers and ratios down, steps across."""
    steps = sorted({line["steps"] for line in found if f"{kind}_gain" in line})
    rows = []
    for sampler, ranking, ratio in dict.fromkeys(map(_place, found)):
        own = {line["steps"]: line for line in found if _place(line) == (sampler, ranking, ratio)}
        shares = [line["sdxl_share"] for line in own.values()]
        cells = [_gain(own.get(number, {}), kind) for number in steps]
        rows.append([f"{sampler}, {ranking}, {ratio:g}", f"{sum(shares) / len(shares):.0%}", *cells])
    head = [f"nearer to the {STEP_KINDS[kind]}, dB", "FLOPs on SDXL", *(f"{number} steps" for number in steps)]
    return markdown(head, rows) + f"\n\n{max(line.get('pictures', 0) for line in found)} captions."


def _place(line: Line) -> tuple[str, str, float]:
    return line["sampler"], line["ranking"], line["ratio"]


def _cells(line: Line) -> list[str]:
    low, high = line["psnr_quartiles"]
    return [
        line["name"],
        f"{line['psnr']:.1f}",
        f"{low:.1f} to {high:.1f}",
        f"{line['ssim']:.4f}",
        f"{line['latent_error']:.3f}",
        f"{line['same_scene']:.1%}",
        f"{line['right']:.1%}",
        _percent(line["share"]),
        _percent(line["sdxl_share"]),
    ]


def _difference(line: Line, what: str) -> str:
    gap = line.get(what)
    return "" if gap is None else f"{gap['median']:+.1f} ({gap['better']} of {line['pictures']} nearer)"


def _gain(line: Line, kind: str) -> str:
    gain = line.get(f"{kind}_gain")
    return "" if gain is None else (f"**{gain:+.1f}**" if gain > 0 else f"{gain:+.1f}")


def _progress_table(found: Sequence[Line]) -> str:
    count = len(found[0]["step_errors"])
    picked = sorted({0, count // 6, count // 3, count // 2, 2 * count // 3, 5 * count // 6, count - 1})
    head = ["", *(f"step {number + 1}" for number in picked), "median of all steps"]
    rows = [
        [line["name"], *(f"{line['step_errors'][number]:.1%}" for number in picked), f"{_middle(line):.1%}"]
        for line in found
    ]
    return markdown(head, rows) + f"\n\n{found[0]['pictures']} captions of the set *{found[0]['captions']}*."


def _time_table(found: Sequence[Line]) -> str:
    rows = [
        [line["name"], f"{line['unpruned_seconds']:.2f} s", f"{line['seconds']:.2f} s", f"{line['speed_up']:.2f}x"]
        for line in found
    ]
    return markdown(["", "unpruned", "this", "faster"], rows)


def _middle(line: Line) -> float:
    errors = sorted(line["step_errors"])
    return float(errors[len(errors) // 2])


def _percent(value: Any) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.1f}"
