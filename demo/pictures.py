"""Contact sheets of pictures, and maps of kept tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 8
TEXT_HEIGHT = 18
BACKGROUND = (255, 255, 255)
INK = (30, 30, 30)
NEVER, ALWAYS = (40, 20, 90), (255, 225, 60)  # colours of a token that was never and of one that was always kept
TINT = 0.6  # how much of a map is its colours; the rest is the picture in gray

Picture = Image.Image


def amplified_difference(one: Picture, other: Picture, gain: float = 4.0) -> Picture:
    """Where two pictures differ, brightened."""
    a, b = (np.asarray(picture.convert("RGB"), np.float64) for picture in (one, other))
    return Image.fromarray((np.abs(a - b) * gain).clip(0, 255).astype(np.uint8))


def kept_map(picture: Picture, grid: tuple[int, int], kept_share: Sequence[float]) -> Picture:
    """The picture in gray, tinted by how often the token at each place was kept: dark violet never, yellow always."""
    share = np.asarray(kept_share, np.float64).reshape(*grid, 1)
    colours = np.asarray(NEVER) * (1 - share) + np.asarray(ALWAYS) * share
    tint = Image.fromarray(colours.round().astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    return Image.blend(picture.convert("L").convert("RGB"), tint, TINT)


def mean_map(picture: Picture, blocks: Sequence[dict[str, Any]]) -> Picture | None:
    """One map for all blocks that pruned: the mean of their maps."""
    pruned = [block for block in blocks if "grid" in block]
    maps = [np.asarray(kept_map(picture, block["grid"], block["kept_share"]), np.float32) for block in pruned]
    return Image.fromarray(np.mean(maps, axis=0).round().astype(np.uint8)) if maps else None


def sheet(rows: Sequence[Sequence[Picture]], columns: Sequence[str], labels: Sequence[str], side: int = 192) -> Picture:
    """Pictures in rows with a heading per column and a line of text over each row."""
    row_height = side + TEXT_HEIGHT + GAP
    width = GAP + (side + GAP) * len(columns)
    canvas = Image.new("RGB", (width, GAP + TEXT_HEIGHT + row_height * len(rows)), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(12)
    for x, heading in enumerate(columns):
        draw.text((GAP + x * (side + GAP), GAP // 2), heading, INK, font)
    for y, (row, label) in enumerate(zip(rows, labels, strict=True)):
        top = GAP + TEXT_HEIGHT + y * row_height
        draw.text((GAP, top), label, INK, font)
        for x, picture in enumerate(row):
            small = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            canvas.paste(small, (GAP + x * (side + GAP), top + TEXT_HEIGHT))
    return canvas
