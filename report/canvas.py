"""A sheet to draw on: text, shapes and pictures in pixels, twice as fine inside as what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Point = tuple[float, float]
Anchor = Literal["la", "ma", "ra", "lm", "mm", "rm", "ls", "ms", "rs"]

PAPER: Color = (252, 252, 250)
INK: Color = (31, 41, 51)
MUTED: Color = (104, 116, 128)
RULE: Color = (224, 228, 232)
FILL: Color = (238, 240, 242)
SERIES: tuple[Color, ...] = ((47, 109, 181), (24, 148, 136), (124, 92, 191), (176, 108, 32))
ACCENT: Color = (200, 80, 60)

_FINENESS = 2
_SPREAD = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class Sheet:
    """A light sheet of `width` x `height` pixels. Anchors are Pillow's: first letter left/middle/right of the text."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width * _FINENESS, height * _FINENESS), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def text(
        self, at: Point, text: str, size: int = 13, color: Color = INK, *, bold: bool = False, anchor: Anchor = "la"
    ) -> None:
        """One line of text."""
        place = (at[0] * _FINENESS, at[1] * _FINENESS)
        weight = size * _FINENESS / 40 if bold else 0
        font = _font(size * _FINENESS)
        if isinstance(font, ImageFont.FreeTypeFont):
            self._draw.text(place, text, color, font, anchor, stroke_width=weight, stroke_fill=color)
        else:  # a Pillow without FreeType has one small bitmap font, which knows no anchors
            self._draw.text(place, text, color, font)

    def line(self, points: Sequence[Point], color: Color, width: float = 1) -> None:
        """A line through points."""
        path = [(x * _FINENESS, y * _FINENESS) for x, y in points]
        self._draw.line(path, color, max(1, round(width * _FINENESS)), joint="curve")

    def dot(self, at: Point, radius: float, color: Color) -> None:
        """A filled circle with a thin rim of paper."""
        for reach, fill in ((radius + 1, PAPER), (radius, color)):
            x, y, r = (value * _FINENESS for value in (*at, reach))
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill)

    def box(self, at: Point, size: Point, fill: Color, radius: float = 0) -> None:
        """A filled rectangle; nothing where it is narrower than a hair."""
        if size[0] * _FINENESS < 1 or size[1] * _FINENESS < 1:
            return
        x, y = at[0] * _FINENESS, at[1] * _FINENESS
        corners = (x, y, x + size[0] * _FINENESS - 1, y + size[1] * _FINENESS - 1)
        self._draw.rounded_rectangle(corners, radius * _FINENESS, fill)

    def picture(self, at: Point, size: Point, pixels: np.ndarray, smooth: bool = True) -> None:
        """An array `[height, width, 3]` of 0 to 1, scaled to `size`; not smooth shows its single values."""
        scaled = _as_image(pixels).resize(
            (round(size[0] * _FINENESS), round(size[1] * _FINENESS)),
            Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST,
        )
        self._image.paste(scaled, (round(at[0] * _FINENESS), round(at[1] * _FINENESS)))

    def pixels(self) -> np.ndarray:
        """The sheet as `[height, width, 3]` float32 of 0 to 1."""
        return np.asarray(self._image.reduce(_FINENESS), np.float32) / 255.0


def text_width(text: str, size: int = 13) -> float:
    """Of one line, in pixels."""
    return _font(size * _FINENESS).getlength(text) / _FINENESS


def spread_colors(share: np.ndarray) -> np.ndarray:
    """Shares of 0 to 1 as colours `[..., 3]` of 0 to 1: violet for never, yellow for always."""
    stops = np.linspace(0.0, 1.0, len(_SPREAD))
    channels = [np.interp(share, stops, [color[i] / 255.0 for color in _SPREAD]) for i in range(3)]
    return np.stack(channels, axis=-1)


def resized(pixels: np.ndarray, width: int, height: int, smooth: bool = True) -> np.ndarray:
    """An array `[h, w, 3]` of 0 to 1 at another size."""
    how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(_as_image(pixels).resize((width, height), how), np.float32) / 255.0


def _as_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0).round().astype(np.uint8))
