"""One way to refuse a setting: what was given, and what to give instead."""

from __future__ import annotations

from collections.abc import Sequence


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside of [low, high], and what is no number.

    Raises:
        ValueError: naming the setting, its value and the range.
    """
    if not low <= value <= high:
        whole = isinstance(low, int) and isinstance(high, int)
        raise ValueError(f"{name} is {value}: give a {'whole ' if whole else ''}number from {low:g} to {high:g}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not among the choices.

    Raises:
        ValueError: naming the setting, its value and the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
