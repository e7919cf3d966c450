"""Texts that a node shows in its reader's language and the log in English: a key, and what to fill in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_ENGLISH = Path(__file__).parent.parent / "locales" / "en" / "main.json"


@dataclass(frozen=True)
class Said:
    """One of the texts in `locales/<language>/main.json`, `AT-EDM/<section>/<key>`, with its {places} filled in."""

    section: str
    key: str
    values: tuple[tuple[str, str], ...] = ()

    def english(self) -> str:
        """As the log has it."""
        return str(_english()[self.section][self.key]).format(**dict(self.values))

    def as_json(self) -> dict[str, Any]:
        """As the page gets it, which has the texts."""
        return {"key": self.key, "values": dict(self.values)}


def reason(key: str, **values: float | str) -> Said:
    """Why nothing was saved, and what to change."""
    shown = ((name, f"{value:g}" if isinstance(value, float | int) else value) for name, value in values.items())
    return Said("reason", key, tuple(shown))


@cache
def _english() -> dict[str, Any]:
    return dict(json.loads(_ENGLISH.read_text(encoding="utf-8"))["AT-EDM"])
