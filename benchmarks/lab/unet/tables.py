"""Markdown tables of the lab's lines, for the results folder and for the document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...printing import markdown
from ..captions import Subject
from ..summary import Line

Found = Mapping[Subject, Sequence[Line]]
SUBJECTS: dict[Subject, str] = {"photographs": "photographs", "shapes": "flat shapes"}

TITLES = {
    "main": "The defaults, the paper's recipe and the controls",
    "selection": "Which tokens stay",
    "recovery": "What a dropped token gets back, and from which stand-in",
    "merge": "What a kept token is to those that it stands for",
    "schedule": "Schedules that spend the same FLOPs on SDXL",
    "points": "Where in the block tokens are dropped",
    "ratio": "How many tokens are dropped",
    "steps": "Pruning against fewer steps",
    "peers": "Other accelerators",
    "ranking": "How the ranking is made",
    "blocks": "Which blocks bear it",
    "levels": "Resolution levels",
    "size": "Four times as many tokens: 512 px",
    "samplers": "Samplers",
    "cfg": "Guidance",
    "progress": "Errors of single steps over progress",
    "precision": "Half precision",
    "time": "Seconds on the demo model",
}
STEP_KINDS = {"own": "own picture", "stacked": "50-step picture"}


def table(group: str, found: Found) -> str:
    """The table of a group, of all subjects that it was measured on."""
    there = {subject: lines for subject, lines in found.items() if lines}
    if not there:
        return "Not measured yet."
    if group in SINGLE:
        parts = {subject: SINGLE[group](lines) for subject, lines in there.items()}
        return "\n\n".join(f"**{SUBJECTS[subject]}.**\n\n{part}" for subject, part in parts.items())
    return _side_by_side(there)


def _side_by_side(found: Found) -> str:
    """One line for each case, and a set of columns for each subject."""
    columns = [(subject, column) for subject in found for column in COLUMNS if _has(found[subject], column)]
    head = ["", *(f"{SUBJECTS[subject]}: {COLUMNS[column][0]}" for subject, column in columns)]
    names = list(dict.fromkeys(line["name"] for lines in found.values() for line in lines))
    by_name = {subject: {line["name"]: line for line in lines} for subject, lines in found.items()}
    rows = [
        [name, *(COLUMNS[column][1](by_name[subject].get(name, {})) for subject, column in columns)] for name in names
    ]
    notes = [
        f"{SUBJECTS[subject].capitalize()}: {lines[0]['pictures']} captions of the set "
        f"*{lines[0]['captions'].rpartition(', ')[2]}*; "
        f"the unpruned pictures are right in {lines[0]['reference_right']:.0%}."
        for subject, lines in found.items()
    ]
    return markdown(head, rows) + "\n\n" + " ".join(notes)


def _has(lines: Sequence[Line], column: str) -> bool:
    return any(COLUMNS[column][1](line) for line in lines)


def _steps_tables(found: Sequence[Line]) -> str:
    there = [kind for kind in STEP_KINDS if any(f"{kind}_gain" in line for line in found)]
    return "\n\n".join(step_table(found, kind) for kind in there) or "Not measured yet."


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


def _psnr(line: Line) -> str:
    if not line:
        return ""
    low, high = line["psnr_quartiles"]
    return f"{line['psnr']:.1f} ({low:.0f} to {high:.0f})"


def _value(name: str, form: str) -> Callable[[Line], str]:
    return lambda line: "" if line.get(name) is None else format(line[name], form)


def _difference(line: Line, what: str) -> str:
    gap = line.get(what)
    return "" if gap is None else f"{gap['median']:+.1f} ({gap['better']}/{line['pictures']})"


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


SINGLE: dict[str, Callable[[Sequence[Line]], str]] = {
    "steps": _steps_tables,
    "progress": _progress_table,
    "time": _time_table,
}
"""Groups whose lines are not cases beside each other: a table for each subject."""
COLUMNS: dict[str, tuple[str, Callable[[Line], str]]] = {
    "psnr": ("PSNR, dB (quartiles)", _psnr),
    "gmsd": ("GMSD", _value("gmsd", ".4f")),
    "same_scene": ("same scene", _value("same_scene", ".0%")),
    "sdxl_share": ("FLOPs on SDXL", _value("sdxl_share", ".1%")),
    "against_defaults": ("to the defaults", lambda line: _difference(line, "against_defaults")),
    "against_fewer": ("to fewer steps", lambda line: _difference(line, "against_fewer_steps_at_sdxl_share")),
}
"""By name: a column's title, and what a line shows in it, at SDXL's FLOPs."""
