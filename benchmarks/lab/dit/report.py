"""Tables of what has been measured: JSON in the results folder, Markdown in the document."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any, get_args

import torch

from devtools.layout import ROOT

from ...measure import RESULTS, machine, rounded
from ...printing import markdown
from ..captions import FIRST_SEED, Subject
from ..cases import Row
from ..document import insert
from ..store import Store
from ..summary import Measured, fewer_steps_at, measured
from .catalogue import build

FOLDER = RESULTS / "cat_fidelity"
DOCUMENT = ROOT / "docs" / "cat_fidelity.md"
BASELINE = "round robin"
Line = dict[str, Any]


def is_fewer_steps(row: Row) -> bool:
    """Whether a row is the control of taking fewer steps."""
    return row.case.unpruned and row.against is not None


def lines(group: Sequence[Measured]) -> list[Line]:
    """A line per row: medians over captions, and pairwise how often it is nearer than round robin and fewer steps."""
    fewer = [one for one in group if is_fewer_steps(one.row)]
    baseline = next((one for one in group if one.row.name == BASELINE), None)
    return [_line(one, baseline, fewer) for one in group]


def _line(one: Measured, baseline: Measured | None, fewer: Sequence[Measured]) -> Line:
    psnr, share = one.of("psnr"), one.share("share") or 0.0
    line: Line = {
        "name": one.row.name,
        "captions": one.row.captions,
        "pictures": len(psnr),
        "reference_steps": one.row.reference.sampling.steps,
        "share": share,
        "psnr": statistics.median(psnr),
        "ssim": statistics.median(one.of("ssim")),
        "latent_error": statistics.median(one.of("latent_error")),
        "same_scene": statistics.fmean(one.of("same_scene")),
        "right": statistics.fmean(one.of("right")),
        "reference_right": statistics.fmean(one.of("reference_right")),
    }
    if is_fewer_steps(one.row):
        return {**line, "fewer_steps": True}
    if baseline is not None and baseline is not one:
        line["against_round_robin"] = _paired(psnr, baseline.of("psnr"))
    if fewer:
        line["against_fewer_steps"] = _paired(psnr, fewer_steps_at(share, fewer))
    return line


def _paired(own: Sequence[float], other: Sequence[float]) -> Line:
    gaps = [a - b for a, b in zip(own, other, strict=True)]
    return {
        "psnr": statistics.median(other),
        "median": statistics.median(gaps),
        "better": sum(gap > 0 for gap in gaps),
    }


def table(found: dict[Subject, list[Line]]) -> str:
    """Markdown of a group, of one subject or of all side by side.

    Of unpruned runs with fewer steps only what stands beside the others is shown.
    """
    shown = {subject: [line for line in those if not line.get("fewer_steps")] for subject, those in found.items()}
    if len(shown) > 1:
        return _side_by_side(shown)
    [(_, those)] = shown.items()
    return _of_one(those)


def _side_by_side(shown: dict[Subject, list[Line]]) -> str:
    """One line for each row that all subjects have; FLOPs are the same for all."""
    by_name = {subject: {line["name"]: line for line in those} for subject, those in shown.items()}
    first, *others = by_name.values()
    names = [name for name in first if all(name in other for other in others)]
    head = ["", "FLOPs"]
    rows = [[name, f"{first[name]['share']:.0%}"] for name in names]
    for subject, lines in by_name.items():
        head += [f"{subject}: PSNR, dB", "latent error", "to fewer steps, dB"]
        for row in rows:
            cells = _cells(lines[row[0]])
            row += [cells[1], cells[2], cells[-1]]
    notes = [f"{subject.capitalize()}: {_note(those[0])}" for subject, those in shown.items()]
    return markdown(head, rows) + "\n\n" + " ".join(notes)


def _note(line: Line) -> str:
    purpose = line["captions"].rpartition(", ")[2]
    return (
        f"{line['pictures']} captions of the set *{purpose}*; "
        f"the unpruned pictures are right in {line['reference_right']:.0%}."
    )


def _of_one(shown: Sequence[Line]) -> str:
    rows = [_cells(line) for line in shown]
    head = ["", "PSNR, dB", "latent error", "same scene", "FLOPs", "to round robin, dB", "to fewer steps, dB"]
    if not any("against_round_robin" in line for line in shown):
        head, *rows = ([*row[:-2], row[-1]] for row in (head, *rows))
    return markdown(head, rows) + f"\n\n{_note(shown[0])}"


def _cells(line: Line) -> list[str]:
    return [
        line["name"],
        f"{line['psnr']:.1f}",
        f"{line['latent_error']:.3f}",
        f"{line['same_scene']:.0%}",
        f"{line['share']:.0%}",
        _gap(line.get("against_round_robin"), line["pictures"]),
        _gap(line.get("against_fewer_steps"), line["pictures"]),
    ]


def _gap(pair: Line | None, pictures: int) -> str:
    return "" if pair is None else f"{pair['median']:+.1f} ({pair['better']} of {pictures})"


def collect(groups: dict[str, list[Row]], store: Store) -> dict[str, list[Line]]:
    """Lines of every group of which anything has been measured."""
    found = {name: lines(measured(rows, store)) for name, rows in groups.items()}
    return {name: those for name, those in found.items() if those}


def save(subject: Subject, found: dict[str, list[Line]], about: dict[str, Any]) -> None:
    """Write a subject's lines as JSON, and the document's tables from all JSON there is."""
    folder = FOLDER / subject
    folder.mkdir(parents=True, exist_ok=True)
    for name, those in found.items():
        content = {"machine": machine(torch.device("cpu")), "model": about, "lines": rounded(those)}
        text = json.dumps(content, indent=1) + "\n"
        (folder / f"{file_name(name, those[0]['captions'])}.json").write_text(text, encoding="utf-8")
    draw_up()


def file_name(group: str, captions: str) -> str:
    """The table's name: the group's, and of the confirming captions if it is of those."""
    plain = group.removeprefix("cat ").replace(" ", "_")
    purpose = captions.rpartition(", ")[2]
    return plain if purpose == "choose" else f"{plain}_{purpose}"


def draw_up() -> None:
    """The document's tables from the JSON files alone, so that they cannot say anything else."""
    names = [file_name(group, captions) for group in build() for captions in FIRST_SEED]
    made = dict.fromkeys(names, "Not measured yet.")
    made |= {name: table(found) for name, found in saved().items()}
    if DOCUMENT.exists():
        insert(DOCUMENT, made)


def saved() -> dict[str, dict[Subject, list[Line]]]:
    """Lines of every table that was measured, by subject."""
    found: dict[str, dict[Subject, list[Line]]] = {}
    for subject in get_args(Subject):
        for file in sorted((FOLDER / subject).glob("*.json")):
            found.setdefault(file.stem, {})[subject] = json.loads(file.read_text(encoding="utf-8"))["lines"]
    return found
