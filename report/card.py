"""A sheet with a sentence on it, where there is nothing to draw."""

from __future__ import annotations

import textwrap

import numpy as np

from .canvas import MUTED, Sheet

_WIDTH = 768
_LETTERS = 84


def draw_card(title: str, text: str, *, dark: bool = False) -> np.ndarray:
    """`[H, W, 3]` of 0 to 1, as high as the text asks for."""
    lines = textwrap.wrap(text, _LETTERS)
    sheet = Sheet(_WIDTH, 110 + 24 * len(lines), dark=dark)
    sheet.text((28, 26), title, 22, bold=True)
    for i, line in enumerate(lines):
        sheet.text((28, 68 + 24 * i), line, 15, MUTED)
    return sheet.pixels()
