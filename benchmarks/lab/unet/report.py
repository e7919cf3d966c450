"""What the lab prints and leaves behind: JSON and Markdown per group, plots, a contact sheet, the document's tables."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ...measure import RESULTS, ROOT, machine, rounded
from ..captions import Subject
from ..cases import Row
from ..document import insert
from ..store import Store
from ..summary import Line, measured
from . import plots, sheet, tables
from .session import Session
from .summary import lines, step_map

FOLDER = RESULTS / "fidelity"
DOCUMENT = ROOT / "docs" / "fidelity.md"


def prepare() -> None:
    """Make the folder of tables and plots, long before anything is written there.

    Raises:
        OSError: it cannot be written.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "tables.md").open("a", encoding="utf-8"):
        pass


def folder_of(subject: Subject) -> Path:
    """Where a subject's results are."""
    return FOLDER / subject


def collect(groups: dict[str, list[Row]], store: Store) -> dict[str, list[Line]]:
    """Lines of every group of which anything has been measured."""
    found = {}
    for name, rows in groups.items():
        there = measured(rows, store)
        found[name] = step_map(there) if name == "steps" else lines(there)
    return {name: those for name, those in found.items() if those}


def show(groups: dict[str, list[Row]], store: Store) -> None:
    """The tables, shortened, on the console."""
    console = Console()
    for name, found in collect(groups, store).items():
        if name == "steps":
            console.print(tables.SINGLE[name](found))
            continue
        shown = Table(title=f"{tables.TITLES[name]} ({found[0]['pictures']} captions)")
        for column in ("", "PSNR, dB", "same scene", "FLOPs", "on SDXL"):
            shown.add_column(column, justify="left" if not column else "right")
        for line in found:
            shares = [f"{line[one]:.1%}" if line[one] is not None else "" for one in ("share", "sdxl_share")]
            shown.add_row(line["name"], f"{line['psnr']:.1f}", f"{line['same_scene']:.0%}", *shares)
        console.print(shown)


def save(groups: dict[str, list[Row]], store: Store, session: Session) -> None:
    """Write everything that follows from what has been measured so far; groups that were not asked for stay."""
    folder = folder_of(session.subject)
    folder.mkdir(parents=True, exist_ok=True)
    where = machine(torch.device("cpu"))
    for name, found in collect(groups, store).items():
        content = {"machine": where, "title": tables.TITLES[name], "lines": rounded(found)}
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw_up()
    if "main" in groups:
        sheet.make(session).save(folder / "contact_sheet.jpg", quality=88)
    print(f"tables, plots and pictures are in {FOLDER.relative_to(ROOT)}")


def save_times(found: list[Line]) -> None:
    """Write the times of pictures and put them where they are shown."""
    folder_of("shapes").mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(torch.device("cpu")), "title": tables.TITLES["time"], "lines": rounded(found)}
    (folder_of("shapes") / "time.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw_up()
    print(tables.SINGLE["time"](found))


def draw_up() -> None:
    """Tables, plots and the document from the JSON files alone, so that they cannot say anything else."""
    saved = {name: {subject: _lines(subject, name) for subject in tables.SUBJECTS} for name in tables.TITLES}
    made = {name: tables.table(name, found) for name, found in saved.items()}
    text = "\n\n".join(f"## {tables.TITLES[name]}\n\n{made[name]}" for name in made if any(saved[name].values()))
    (FOLDER / "tables.md").write_text(f"# Fidelity\n\n{text}\n", encoding="utf-8")
    if DOCUMENT.exists():
        insert(DOCUMENT, made)
    for subject in tables.SUBJECTS:
        if saved["ratio"][subject]:
            plots.pareto(saved["ratio"][subject], saved["peers"][subject], folder_of(subject) / "pareto.png")
        for name, plot in plots.PLOTS.items():
            if saved[name][subject]:
                plot(saved[name][subject], folder_of(subject) / f"{name}.png")


def _lines(subject: Subject, name: str) -> list[Line]:
    file = folder_of(subject) / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))["lines"] if file.exists() else []
