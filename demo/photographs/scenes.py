"""The photographs that the lab's second model is trained on: one object at one place on one ground, composed by a seed.

A `PhotoScene` is what a picture shows, `demo.scenes.caption` says it in words, `compose` makes the picture. Colours of
objects and grounds are measured, and left out where there is no main one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..scenes import PLACES, SIZE, TEMPLATES, centre
from .catalogue import COLOURS, KINDS, Catalogue, main_colour, resize

SIZES = {"small": 84, "large": 132}  # pixels of an object's longer side in a picture of 256
SIZE_JITTER = 6  # pixels it may differ from that, either way
JITTER = 6  # pixels an object may lie off the centre of its place, either way
LEAST_CROP = 384  # pixels of a ground that fill a picture at least; smaller crops of these are often blurred
TRIES = 8  # grounds tried for one whose colour is not the object's
PHOTO_TEMPLATES = tuple(t.replace("{shape}", "{kind}") for t in TEMPLATES)
PARTS = {
    "kind": tuple(KINDS),
    "colour": COLOURS,
    "place": tuple(PLACES),
    "size": tuple(SIZES),
    "background": COLOURS,
}


@dataclass(frozen=True)
class PhotoScene:
    """What a picture shows. `None` stands for what a caption leaves open."""

    kind: str
    colour: str | None
    place: str
    size: str | None
    background: str | None


@dataclass(frozen=True)
class Picture:
    """A composed picture, uint8 [SIZE, SIZE, 3], and what it shows."""

    scene: PhotoScene
    pixels: np.ndarray


def is_held_out(kind: str, size: str, place: str) -> bool:
    """A fixed ninth of all (kind, size, place) combinations, one place of each kind and size; never trained on."""
    return (list(KINDS).index(kind) + 4 * list(SIZES).index(size) + list(PLACES).index(place)) % len(PLACES) == 0


def ground_crop(ground: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A square of any size from `LEAST_CROP` up, anywhere, made SIZE x SIZE; mirrored half of the time."""
    most = min(ground.size)
    least = min(LEAST_CROP, most)
    side = round(least * (most / least) ** rng.random())
    left, top = (int(rng.integers(0, length - side + 1)) for length in ground.size)
    crop = ground.resize((SIZE, SIZE), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def ground_colour(crop: Image.Image) -> str | None:
    """The word for a ground's main colour, looked at from afar."""
    return main_colour(np.asarray(crop.resize((16, 16), Image.Resampling.BOX)), 0.4)


def compose(pictures: Catalogue, seed: tuple[int, ...], held_out: bool = False) -> Picture:
    """The picture of a seed. With `held_out` it shows a held-out combination, else never one."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(list(KINDS)))
    cutout = pictures.objects[kind][rng.integers(len(pictures.objects[kind]))]
    size = str(rng.choice(list(SIZES)))
    place = str(rng.choice([p for p in PLACES if is_held_out(kind, size, p) == held_out]))
    for _ in range(TRIES):
        crop = ground_crop(pictures.grounds[rng.integers(len(pictures.grounds))], rng)
        background = ground_colour(crop)
        if cutout.colour is None or background != cutout.colour:
            break
    scene = PhotoScene(kind, cutout.colour, place, size, background)
    longer = SIZES[size] + int(rng.integers(-SIZE_JITTER, SIZE_JITTER + 1))
    scale = longer / max(cutout.picture.size)
    thing = resize(cutout.picture, tuple(max(1, round(scale * s)) for s in cutout.picture.size))
    if rng.random() < 0.5:
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    at = [
        int(np.clip(middle + offset - length / 2, 0, SIZE - length))
        for middle, offset, length in zip(centre(place), rng.integers(-JITTER, JITTER + 1, 2), thing.size, strict=True)
    ]
    crop.paste(thing, (at[0], at[1]), thing)
    return Picture(scene, np.asarray(crop))


def focus(scene: PhotoScene, side: int, gain: float = 4.0) -> np.ndarray:
    """How much each place of a picture counts in training, float32 [side, side] of mean 1.

    `gain` times more where the object is than elsewhere, because grounds have most of the pixels and are learned by
    themselves. From the caption's place and size alone.
    """
    out = np.ones((side, side), np.float32)
    out[box(scene.place, scene.size, side)] = gain
    return out / out.mean()


def box(place: str, size: str | None, side: int) -> tuple[slice, slice]:
    """(rows, columns) that an object takes at most, in a picture of `side` x `side`."""
    length = SIZES[size] if size else sum(SIZES.values()) / 2
    spans = []
    for middle in centre(place):
        first = float(np.clip(middle - length / 2, 0, SIZE - length))
        spans.append(slice(int(first * side / SIZE), round((first + length) * side / SIZE)))
    return spans[1], spans[0]


def words() -> list[str]:
    """Words of captions beyond the demo's own."""
    return [*KINDS, *COLOURS]
