"""Results as tables: on the terminal by rich, in documents as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], where: dict[str, Any]) -> None:
    """Print a table, the first column to the left and numbers to the right, and where it was measured below."""
    table = Table(title=title)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left", no_wrap=position == 0)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print()
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in where.items()), style="dim")


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same as a Markdown table.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    for line in lines:
        if len(line) != len(columns):
            raise ValueError(f"{len(columns)} columns {list(columns)}, but a row of {len(line)} cells: {list(line)}")
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def times(value: float | None) -> str:
    """A speed-up as people write it."""
    return "" if value is None else f"{value:.2f}x"
