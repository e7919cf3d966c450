"""Does a picture show its scene? An exact answer: colours by the nearest of the palette,

The shape by the best overlap with drawn ones.

No learned judge and no tolerance that a wrong picture could hide in: `tests/demo` shows that every drawn scene passes
and that any change of a part fails. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .scenes import COLOURS, PLACES, SHAPES, SIZES, Scene, mask

NAMES = tuple(COLOURS)
PALETTE = np.array([COLOURS[n] for n in NAMES], np.float32)
MIN_OVERLAP = 0.8  # intersection over union with the drawn shape; below it the thing has no shape that we know
MAX_COLOUR_ERROR = (
    45.0  # RGB distance of the median colour to its name's; half the distance between the closest two names
)
MAX_STRAY = 0.01  # share of the picture that may be neither background nor the shape
DIAMETERS = (50, 130)  # what is taken for a shape at all
CORE = ("shape", "colour", "place")


@dataclass(frozen=True)
class Seen:
    """What a picture shows, by measure; `None` where nothing fits, `overlap` is the best shape's.

    The place of a thing without a known shape is that of its centroid.
    """

    shape: str | None
    colour: str | None
    place: str | None
    size: str | None
    background: str | None
    overlap: float
    stray: float


def nearest(picture: np.ndarray) -> np.ndarray:
    """The palette's nearest colour of every pixel: [H, W, 3] -> indices [H, W]."""
    flat = picture.reshape(-1, 3).astype(np.float32)
    # |p - c|^2 without the part that is the same for all c
    return (-2 * flat @ PALETTE.T + (PALETTE**2).sum(1)).argmin(1).reshape(picture.shape[:2])


def named(pixels: np.ndarray) -> str | None:
    """The name of the pixels' median colour [N, 3], or None if it is too far from all names."""
    distances = np.linalg.norm(PALETTE - np.median(pixels.astype(np.float32), axis=0), axis=1)
    return NAMES[int(distances.argmin())] if distances.min() <= MAX_COLOUR_ERROR else None


@cache
def _area(shape: str) -> float:
    """Area of a shape of diameter 1."""
    return float(mask(shape, 100).sum()) / 100**2


@cache
def _centroid(shape: str) -> tuple[float, float]:
    """(x, y) of a shape's centroid off the middle of its square, for diameter 1."""
    cover = mask(shape, 100)
    at = np.arange(len(cover)) - (len(cover) - 1) / 2
    return float((cover.sum(0) * at).sum() / cover.sum() / 100), float((cover.sum(1) * at).sum() / cover.sum() / 100)


def placed(shape: str, diameter: int, x: float, y: float, size: tuple[int, int]) -> np.ndarray:
    """A drawn shape in an empty picture of `size` (height, width), its square's middle near (x, y): coverage [H, W]."""
    cover, out = mask(shape, diameter), np.zeros(size, np.float32)
    top, left = (round(v - len(cover) / 2) for v in (y, x))
    rows, columns = (
        slice(max(top, 0), min(top + len(cover), size[0])),
        slice(max(left, 0), min(left + len(cover), size[1])),
    )
    out[rows, columns] = cover[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return out


def fit(found: np.ndarray, shape: str) -> tuple[float, int, float, float]:
    """Best (overlap, diameter, x, y) of a drawn shape with what was found [H, W],

    By its area and centroid and a little around.
    """
    area = float(found.sum())
    rows, columns = found.sum(1), found.sum(0)
    cy, cx = (float((w * (np.arange(len(w)) + 0.5)).sum() / area) for w in (rows, columns))
    best = (0.0, 0, cx, cy)
    first = round((area / _area(shape)) ** 0.5 / 2) * 2
    for diameter in range(first - 4, first + 6, 2):
        if not DIAMETERS[0] <= diameter <= DIAMETERS[1]:
            continue
        dx, dy = _centroid(shape)
        x, y = cx - dx * diameter, cy - dy * diameter
        drawn = placed(shape, diameter, x, y, found.shape)
        overlap = float(np.minimum(drawn, found).sum() / np.maximum(drawn, found).sum())
        best = max(best, (overlap, diameter, x, y))
    return best


def see(picture: np.ndarray) -> Seen:
    """Measure a picture, uint8 [H, W, 3]."""
    height, width = picture.shape[:2]
    names = nearest(picture)
    counts = np.bincount(names.ravel(), minlength=len(NAMES))
    ground = int(counts.argmax())
    # an edge's mixed colours may come near to any name; the inside of the object outnumbers them
    counts[ground] = 0
    thing = int(counts.argmax())
    background = named(picture[names == ground])
    if counts[thing] < 200:
        return Seen(None, None, None, None, background, 0.0, float(counts.sum()) / names.size)
    colour = named(picture[names == thing])
    axis = PALETTE[thing] - PALETTE[ground]
    share = (picture.astype(np.float32) - PALETTE[ground]) @ axis / (axis @ axis)
    found = share.clip(0, 1)
    found[found < 0.1] = 0  # a background a little off its name is no object
    shape, (overlap, diameter, x, y) = max(((s, fit(found, s)) for s in SHAPES), key=lambda pair: pair[1][0])
    stray = float(((names != ground) & (_grown(placed(shape, max(diameter, 2), x, y, found.shape) > 0) == 0)).mean())
    if overlap < MIN_OVERLAP:
        y, x = (float(line @ (np.arange(len(line)) + 0.5) / line.sum()) for line in (found.sum(1), found.sum(0)))
        return Seen(None, colour, place_at(x / width, y / height), None, background, overlap, stray)
    size = min(SIZES, key=lambda s: abs(SIZES[s] - diameter))
    return Seen(shape, colour, place_at(x / width, y / height), size, background, overlap, stray)


def place_at(x: float, y: float) -> str | None:
    """The place whose ninth of the picture holds (x, y), both 0 to 1."""
    cell = (int(x * 3), int(y * 3))
    return next((name for name, (column, row, _) in PLACES.items() if (column, row) == cell), None)


def _grown(inside: np.ndarray, by: int = 3) -> np.ndarray:
    """A mask widened by `by` pixels to all sides, so that soft edges are not counted as strays."""
    padded = np.pad(inside, by)
    rows = np.max([padded[i : i + inside.shape[0]] for i in range(2 * by + 1)], axis=0)
    return np.max([rows[:, i : i + inside.shape[1]] for i in range(2 * by + 1)], axis=0)


def judge(picture: np.ndarray, scene: Scene) -> dict[str, bool]:
    """Which parts of the scene the picture shows. Parts that the scene leaves open are right whatever is shown.

    `clean` says that nothing else is in the picture; `right` that shape, colour and place are right and the picture is
    clean.
    """
    seen = see(picture)
    parts = {
        p: getattr(scene, p) is None or getattr(scene, p) == getattr(seen, p)
        for p in ("shape", "colour", "place", "size", "background")
    }
    parts["clean"] = seen.stray <= MAX_STRAY
    parts["right"] = all(parts[p] for p in CORE) and parts["clean"]
    return parts
