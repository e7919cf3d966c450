"""Rows of `bench forecasts`: those of the committed result, and on top of them what was measured here since.

A line in the file of this machine is a row, or says that a row is to be measured anew or is gone; of several lines with
one key the latest counts. Results that were measured elsewhere are not lost: a row stays until another takes its
place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """All rows that there are.

    Args:
        result: the committed result; need not exist.
        own: JSON lines of this machine; made at the first row.
    """

    def __init__(self, result: Path, own: Path) -> None:
        self._own = own
        self._rows: dict[str, Row] = {}
        self._due: set[str] = set()
        if result.exists():
            for row in json.loads(result.read_text(encoding="utf-8"))["rows"]:
                self._rows[row["key"]] = row
        if own.exists():
            for line in own.read_text(encoding="utf-8").splitlines():
                try:
                    self._take(json.loads(line))
                except json.JSONDecodeError:
                    continue  # the line that an interruption cut off

    def __contains__(self, key: str) -> bool:
        """Whether a row needs no measuring."""
        return key in self._rows and key not in self._due

    def all(self) -> list[Row]:
        """Every row, those that are to be measured anew as they were."""
        return list(self._rows.values())

    def add(self, row: Row) -> None:
        """Keep a row that was measured, in place of the one with its key."""
        self._write({**row, "when": round(time.time())})

    def ask_again(
        self, methods: Sequence[str], cells: Iterable[tuple[str, str, int]], settings: Iterable[tuple[str, float]]
    ) -> None:
        """Have the rows of these methods in these cells (captions, sampler, steps) measured anew, once.

        Rows of a (method, setting) that is not among today's go: they say what a method did before it changed.
        """
        wanted, today = set(cells), set(settings)
        for row in self.all():
            if row["method"] in methods and cell_of(row) in wanted:
                kept = (row["method"], row["setting"]) in today
                self._write({"key": row["key"], "again" if kept else "gone": True, "when": round(time.time())})

    def _take(self, line: Row) -> None:
        key, known = line["key"], self._rows.get(line["key"])
        if known is not None and line.get("when", 0) < known.get("when", 0):
            return
        if line.get("again"):
            self._due.add(key)
        elif line.get("gone"):
            self._rows.pop(key, None)
        else:
            self._rows[key] = line
            self._due.discard(key)

    def _write(self, line: Row) -> None:
        self._own.parent.mkdir(parents=True, exist_ok=True)
        with self._own.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._take(line)


def cell_of(row: Row) -> tuple[str, str, int]:
    """Captions, sampler and steps of a row."""
    return row["captions"], row["sampler"], row["steps"]
