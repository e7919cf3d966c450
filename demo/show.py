"""The demo's pictures on disk: every single one with its workflow, and two contact sheets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from . import pictures
from .drawing import Drawn, Row, Task
from .ways import FULL

SINGLE = "pictures"
SHOWN = 2  # pictures of each prompt on the sheet
GENERATED = ("*.png", "summary.*", f"{SINGLE}/*.png")


def clear(out: Path) -> None:
    """Take what an earlier run left, and nothing else."""
    for pattern in GENERATED:
        for old in out.glob(pattern):
            old.unlink()
    (out / SINGLE).mkdir(parents=True, exist_ok=True)


def save(rows: Sequence[Row], task: Task, out: Path) -> None:
    """Everything."""
    for number, row in enumerate(rows, 1):
        for name, run in row.runs.items():
            for index, picture in enumerate(run.pictures, 1):
                picture.save(out / SINGLE / f"{number}-{index}-{name}.png", pnginfo=run.carried)
    _side_by_side(rows, task).save(out / "side_by_side.png")
    kept = _kept_tokens(rows, task)
    if kept is not None:
        kept.save(out / "kept_tokens.png")


def _side_by_side(rows: Sequence[Row], task: Task) -> Image.Image:
    pruned, auto = task.methods
    names = [FULL.name, pruned.name, auto.name, f"{auto.name}-steps"]
    compared, labels = [], []
    for row in rows:
        for index in range(min(SHOWN, task.sampling.batch)):
            shown = [row.runs[name].pictures[index] for name in names]
            blocks = _blocks(row.runs[pruned.name], index)
            compared.append([*shown, pictures.mean_map(shown[1], blocks) or shown[1]])
            labels.append(f"{row.prompt}, seed {row.seed}, picture {index + 1}")
    titles = [rows[0].runs[name].way.title for name in names]
    return pictures.sheet(compared, [*titles, "tokens AT-EDM kept (yellow)"], labels)


def _kept_tokens(rows: Sequence[Row], task: Task) -> Image.Image | None:
    runs = [row.runs[task.methods[0].name] for row in rows]
    names = [block["name"] for block in _blocks(runs[0], 0)]
    if not names:
        return None
    maps = [[pictures.kept_map(run.pictures[0], b["grid"], b["kept_share"]) for b in _blocks(run, 0)] for run in runs]
    return pictures.sheet(maps, names, [f"{row.prompt}, seed {row.seed}" for row in rows], side=128)


def _blocks(run: Drawn, index: int) -> list[dict[str, Any]]:
    """Blocks that dropped tokens, with what one picture of the batch kept there."""

    def found() -> Iterator[dict[str, Any]]:
        for block in run.record.get("blocks", ()):
            if "grid" in block:
                yield {**block, "kept_share": block["kept_share_of"][index]}

    return list(found())
