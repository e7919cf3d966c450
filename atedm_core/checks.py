"""One way to refuse an argument: a ValueError that names it, its value, and what to give instead."""

from __future__ import annotations

from collections.abc import Sequence


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside of [low, high], and what is no number; where both ends are `int`, a whole one is due."""
    if not low <= value <= high:
        whole = isinstance(low, int) and isinstance(high, int)
        raise ValueError(f"{name} is {value}: give a {'whole ' if whole else ''}number from {low:g} to {high:g}")


def check_shape(name: str, shape: Sequence[int], wanted: Sequence[int], each: str) -> None:
    """Refuse a tensor that does not have one value per `each`, `wanted` in all."""
    if tuple(shape) != tuple(wanted):
        raise ValueError(f"{name} {tuple(shape)} does not fit: give one value per {each}, {tuple(wanted)}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
