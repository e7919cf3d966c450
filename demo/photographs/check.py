"""Simple measurements of a picture against its caption: the colours in and around the object's place, what stands out.

No network is asked. The measurements err on composed pictures too, so their figures there belong beside every score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..scenes import PLACES, SIZE
from .catalogue import main_colour
from .scenes import PhotoScene, box

GRID = 64  # edge of the picture that is looked at
INNER = 0.5  # share of a box's edge that its middle takes; nearly any object fills that


def small(pixels: np.ndarray) -> np.ndarray:
    """uint8 [SIZE, SIZE, 3] -> uint8 [GRID, GRID, 3]."""
    return np.asarray(Image.fromarray(pixels).resize((GRID, GRID), Image.Resampling.BOX))


def middle(place: str, size: str | None) -> tuple[slice, slice]:
    """The middle of an object's box on the grid, (rows, columns)."""

    def inner(span: slice) -> slice:
        margin = (span.stop - span.start) * (1 - INNER) / 2
        return slice(round(span.start + margin), round(span.stop - margin))

    rows, columns = box(place, size, GRID)
    return inner(rows), inner(columns)


def standing_out(pixels: np.ndarray) -> str:
    """The place whose middle differs most from what is around it."""
    picture, scores = small(pixels).astype(np.float32), {}
    for place in PLACES:
        rows, columns = box(place, None, GRID)
        around = np.ones((GRID, GRID), bool)
        around[rows, columns] = False
        near = np.zeros((GRID, GRID), bool)
        near[max(0, rows.start - 5) : rows.stop + 5, max(0, columns.start - 5) : columns.stop + 5] = True
        ring = picture[around & near]
        inner = picture[middle(place, "small")].reshape(-1, 3)
        scores[place] = float(np.linalg.norm(inner.mean(0) - ring.mean(0)) / (20 + ring.std(0).mean()))
    return max(scores, key=lambda place: scores[place])


def looks_like(pixels: np.ndarray, scene: PhotoScene) -> dict[str, bool | None]:
    """Whether a picture [SIZE, SIZE, 3] has the caption's colours and place; `None` where a caption says nothing."""
    if pixels.shape != (SIZE, SIZE, 3):
        raise ValueError(
            f"pixels have shape {pixels.shape}, not {(SIZE, SIZE, 3)}: make the picture at {SIZE} x {SIZE}"
        )
    picture = small(pixels)
    ground = np.ones((GRID, GRID), bool)
    ground[box(scene.place, scene.size, GRID)] = False
    inner = picture[middle(scene.place, scene.size)].reshape(-1, 3)
    return {
        "colour": None if scene.colour is None else main_colour(inner, 0.0) == scene.colour,
        "background": None if scene.background is None else main_colour(picture[ground], 0.0) == scene.background,
        "place": standing_out(pixels) == scene.place,
    }


def shares(pictures: Sequence[np.ndarray], scenes: Sequence[PhotoScene]) -> dict[str, float]:
    """Share of pictures for which each measurement agrees, of those whose caption says something about it."""
    found = [looks_like(pixels, scene) for pixels, scene in zip(pictures, scenes, strict=True)]
    said = {part: [f[part] for f in found if f[part] is not None] for part in ("colour", "background", "place")}
    return {part: round(sum(map(bool, values)) / len(values), 3) for part, values in said.items()}
