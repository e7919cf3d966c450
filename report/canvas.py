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

# what every colour becomes on a dark sheet: papers and inks change places, series get lighter
_DARK: dict[Color, Color] = {
    PAPER: (30, 32, 36),
    INK: (228, 231, 235),
    MUTED: (154, 163, 173),
    RULE: (62, 67, 74),
    FILL: (50, 54, 60),
    ACCENT: (232, 122, 100),
    **dict(zip(SERIES, ((104, 163, 232), (72, 193, 176), (172, 144, 232), (222, 158, 84)), strict=True)),
}

_FINENESS = 2
_SPREAD = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class Sheet:
    """A light or dark sheet of `width` x `height` pixels; colours are given as on a light one.

    Anchors are Pillow's: first letter left/middle/right of the text.
    """

    def __init__(self, width: int, height: int, *, dark: bool = False) -> None:
        self._dark = dark
        self._image = Image.new("RGB", (width * _FINENESS, height * _FINENESS), self._shade(PAPER))
        self._draw = ImageDraw.Draw(self._image)

    def _shade(self, color: Color) -> Color:
        return _DARK.get(color, color) if self._dark else color

    def text(
        self, at: Point, text: str, size: int = 13, color: Color = INK, *, bold: bool = False, anchor: Anchor = "la"
    ) -> None:
        """One line of text."""
        font, color = _font(size * _FINENESS), self._shade(color)
        if isinstance(font, ImageFont.FreeTypeFont):
            weight = size * _FINENESS / 40 if bold else 0
            self._draw.text(_fine(at), text, color, font, anchor, stroke_width=weight, stroke_fill=color)
        else:  # a Pillow without FreeType has one small bitmap font, which knows no anchors
            self._draw.text(_fine(at), text, color, font)

    def line(self, points: Sequence[Point], color: Color, width: float = 1) -> None:
        """A line through points."""
        self._draw.line([*map(_fine, points)], self._shade(color), max(1, round(width * _FINENESS)), joint="curve")

    def dot(self, at: Point, radius: float, color: Color) -> None:
        """A filled circle with a thin rim of paper."""
        for reach, fill in ((radius + 1, PAPER), (radius, color)):
            x, y, r = (value * _FINENESS for value in (*at, reach))
            self._draw.ellipse((x - r, y - r, x + r, y + r), self._shade(fill))

    def box(self, at: Point, size: Point, fill: Color, radius: float = 0) -> None:
        """A filled rectangle; nothing where it is narrower than a hair."""
        (x, y), (width, height) = _fine(at), _fine(size)
        if min(width, height) >= 1:
            self._draw.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius * _FINENESS, self._shade(fill))

    def picture(self, at: Point, size: Point, pixels: np.ndarray, smooth: bool = True) -> None:
        """An array `[height, width, 3]` of 0 to 1, scaled to `size`; not smooth shows its single values."""
        (x, y), (width, height) = _fine(at), _fine(size)
        self._image.paste(_resized(pixels, round(width), round(height), smooth), (round(x), round(y)))

    def pixels(self) -> np.ndarray:
        """The sheet as `[height, width, 3]` float32 of 0 to 1."""
        return np.asarray(self._image.reduce(_FINENESS), np.float32) / 255.0


def text_width(text: str, size: int = 13) -> float:
    """Of one line, in pixels."""
    return _font(size * _FINENESS).getlength(text) / _FINENESS


def spread_colors(share: np.ndarray) -> np.ndarray:
    """Shares of 0 to 1 as colours `[..., 3]` of 0 to 1: violet for never, yellow for always."""
    stops = np.linspace(0.0, 1.0, len(_SPREAD))
    return np.stack([np.interp(share, stops, np.divide(channel, 255.0)) for channel in zip(*_SPREAD, strict=True)], -1)


def resized(pixels: np.ndarray, width: int, height: int, smooth: bool = True) -> np.ndarray:
    """An array `[h, w, 3]` of 0 to 1 at another size."""
    return np.asarray(_resized(pixels, width, height, smooth), np.float32) / 255.0


def _resized(pixels: np.ndarray, width: int, height: int, smooth: bool) -> Image.Image:
    image = Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0).round().astype(np.uint8))
    return image.resize((width, height), Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)


def _fine(place: Point) -> Point:
    return place[0] * _FINENESS, place[1] * _FINENESS
