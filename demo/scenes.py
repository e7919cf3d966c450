"""The little world the demo model knows: one coloured shape at one place on one background.

A `Scene` is what a picture shows; `caption` says it in words, `parse` reads the words back, `draw` paints it.
Everything is exact and deterministic, so that `demo.check` can say without any learned judge whether a picture shows
its caption. numpy only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

AnyScene = TypeVar("AnyScene", bound=Any)

SIZE = 256  # a picture is SIZE x SIZE pixels unless told otherwise

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
SIZES = {"small": 72, "large": 100}  # diameter in pixels
COLOURS = {
    "red": (220, 40, 45),
    "orange": (245, 140, 30),
    "yellow": (250, 225, 60),
    "green": (45, 160, 75),
    "blue": (45, 90, 220),
    "purple": (135, 55, 185),
    "pink": (250, 150, 200),
    "white": (245, 245, 245),
    "gray": (130, 130, 130),
    "black": (20, 20, 20),
}
OBJECT_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
BACKGROUNDS = ("black", "gray", "white", "blue", "green", "yellow")
PLACES = {  # name -> (column, row) of the 3 x 3 grid, and the words that say it
    "upper left": (0, 0, "in the upper left"),
    "top": (1, 0, "at the top"),
    "upper right": (2, 0, "in the upper right"),
    "left": (0, 1, "on the left"),
    "center": (1, 1, "in the center"),
    "right": (2, 1, "on the right"),
    "lower left": (0, 2, "in the lower left"),
    "bottom": (1, 2, "at the bottom"),
    "lower right": (2, 2, "in the lower right"),
}
CENTRES = (58 / 256, 128 / 256, 198 / 256)  # of the three columns and rows, as a share of the picture
JITTER = 5  # pixels a shape may lie off the centre of its place, either way
SIZE_JITTER = 4  # pixels its diameter may differ from the nominal one, either way
SYNONYMS = {
    "grey": "gray",
    "middle": "center",
    "centre": "center",
    "top left": "upper left",
    "top right": "upper right",
}
SYNONYMS |= {"bottom left": "lower left", "bottom right": "lower right", "big": "large", "little": "small"}


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `None` means that a caption leaves it open; `draw` needs all five."""

    shape: str | None
    colour: str | None
    place: str | None
    size: str | None
    background: str | None

    def __post_init__(self) -> None:
        allowed = {"shape": SHAPES, "colour": OBJECT_COLOURS, "place": PLACES, "size": SIZES, "background": BACKGROUNDS}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value not in allowed[field.name]:
                raise ValueError(f"{field.name} {value!r} is none of {', '.join(allowed[field.name])}")
        if self.colour is not None and self.colour == self.background:
            raise ValueError(f"a {self.colour} shape cannot be seen on a {self.background} background")


@dataclass(frozen=True)
class Placing:
    """Where exactly a shape is painted: offsets of its centre and a change of its diameter,

    In pixels of a 256 picture.
    """

    dx: int = 0
    dy: int = 0
    grow: int = 0


def is_held_out(shape: str, colour: str, place: str) -> bool:
    """A fixed tenth of all (shape, colour, place) combinations, spread evenly; never drawn for training."""
    index = SHAPES.index(shape) + 3 * OBJECT_COLOURS.index(colour) + 7 * list(PLACES).index(place)
    return index % 10 == 0


def all_scenes() -> Iterator[Scene]:
    """Every complete scene, in a fixed order."""
    for shape in SHAPES:
        for colour in OBJECT_COLOURS:
            for place in PLACES:
                for size in SIZES:
                    for background in BACKGROUNDS:
                        if colour != background:
                            yield Scene(shape, colour, place, size, background)


def split_scenes() -> tuple[list[Scene], list[Scene]]:
    """(scenes to train on, scenes held out)."""
    train, held = [], []
    for scene in all_scenes():
        (held if is_held_out(scene.shape, scene.colour, scene.place) else train).append(scene)
    return train, held


TEMPLATES = (
    "a {size} {colour} {shape} {place} on a {background} background",
    "a {size} {colour} {shape} on a {background} background, {place}",
    "{size} {colour} {shape} {place}, {background} background",
    "a {background} background with a {size} {colour} {shape} {place}",
)


def caption(scene: Any, template: int = 0, templates: tuple[str, ...] = TEMPLATES) -> str:
    """The scene in words. Parts that are `None` are left out: what they would say is then open.

    Other dataclasses than `Scene` come with templates of their own.
    """
    text = templates[template % len(templates)]
    if scene.background is None:
        text = templates[0].partition(" on a {background}")[0]
    words = {f.name: getattr(scene, f.name) or "" for f in fields(scene)}
    words["place"] = PLACES[scene.place][2] if scene.place else ""
    text = text.format(**words)
    text = re.sub(r"\s+", " ", text).replace(" ,", ",").strip(" ,")
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def loosen(scene: AnyScene, rng: np.random.Generator) -> AnyScene:
    """The scene with its size or its background left out now and then, as people leave them out."""
    draw_size, draw_background = rng.random(2)
    scene = replace(scene, size=None) if draw_size < 0.15 else scene
    return replace(scene, background=None) if draw_background < 0.1 else scene


def parse(text: str) -> Scene:
    """Read a caption back. What it does not say is `None`; raises ValueError where it contradicts itself."""
    text = " ".join(re.findall(r"[a-z]+", text.lower()))
    for old, new in SYNONYMS.items():
        text = re.sub(rf"\b{old}\b", new, text)
    found = re.search(rf"\b({'|'.join(BACKGROUNDS)}) background\b", text)
    background = found.group(1) if found else None
    rest = text.replace(found.group(0), "") if found else text

    def first(names: Iterator[str]) -> str | None:
        hits = [(m.start(), -len(n), n) for n in names if (m := re.search(rf"\b{n}\b", rest))]
        return min(hits)[2] if hits else None

    return Scene(first(SHAPES), first(OBJECT_COLOURS), first(PLACES), first(SIZES), background)


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points of [-1, 1] x [-1, 1] (y down) belong to the shape. Each shape touches its square on all sides,

    Or nearly.
    """
    ax, ay = np.abs(x), np.abs(y)
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "ring":
        return (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.55**2)
    if shape == "square":
        return (ax <= 0.88) & (ay <= 0.88)
    if shape == "diamond":
        return ax / 0.78 + ay <= 1
    if shape == "cross":
        return ((ax <= 0.32) & (ay <= 1)) | ((ay <= 0.32) & (ax <= 1))
    if shape == "triangle":
        return (y <= 0.9) & (y >= -0.9) & (ax <= (y + 0.9) / 1.8)
    if shape == "star":
        return _in_star(x, y)
    if shape == "heart":
        lobes = (ax - 0.5) ** 2 + (y + 0.4) ** 2 <= 0.25
        point = (0.7589 * ax + 0.6514 * (y - 0.95) <= 0) & (
            y >= -0.0743
        )  # the two lines from (0, 0.95) that touch the lobes
        return lobes | point | ((ax <= 0.5) & (y >= -0.4) & (y <= 0))
    raise ValueError(f"no shape called {shape!r}")


def _in_star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A five-pointed star, one point up."""
    y = y - 0.08  # a star hangs above the centre of its circle: push it down to the middle of its square
    angle = np.mod(np.arctan2(x, -y), 2 * np.pi / 5)
    angle = np.minimum(angle, 2 * np.pi / 5 - angle)
    px, py = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    outer, inner = 1.05, 0.46
    ix, iy = inner * np.cos(np.pi / 5), inner * np.sin(np.pi / 5)
    return (ix - outer) * py - iy * (px - outer) >= 0


@lru_cache(maxsize=1024)
def mask(shape: str, diameter: int, samples: int = 4) -> np.ndarray:
    """Coverage of each pixel, [diameter + 2, diameter + 2], 0 to 1,

    Averaged over samples x samples points of a pixel.
    """
    n = diameter + 2
    at = ((np.arange(n * samples) + 0.5) / samples - n / 2) * (2 / diameter)
    fine = inside(shape, at[None, :], at[:, None])
    cover = fine.reshape(n, samples, n, samples).mean(axis=(1, 3)).astype(np.float32)
    cover.setflags(write=False)
    return cover


def centre(place: str, width: int = SIZE, height: int = SIZE) -> tuple[float, float]:
    """(x, y) of a place's middle in a picture of that size, in pixels."""
    column, row, _ = PLACES[place]
    return CENTRES[column] * width, CENTRES[row] * height


def draw(scene: Scene, placing: Placing = Placing()) -> np.ndarray:
    """Paint a complete scene: uint8 [SIZE, SIZE, 3]."""
    if None in (scene.shape, scene.colour, scene.place, scene.size, scene.background):
        raise ValueError(f"cannot draw a scene with open parts: {scene}")
    cover = mask(scene.shape, SIZES[scene.size] + placing.grow)[..., None]
    x, y = centre(scene.place)
    half = cover.shape[0] // 2
    left, top = int(x) + placing.dx - half, int(y) + placing.dy - half
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = COLOURS[scene.background]
    window = picture[top : top + cover.shape[0], left : left + cover.shape[1]]
    window += (np.asarray(COLOURS[scene.colour], np.float32) - window) * cover
    return np.rint(picture).astype(np.uint8)


def random_placing(rng: np.random.Generator) -> Placing:
    """A placing within the limits that still count as the scene."""
    dx, dy = rng.integers(-JITTER, JITTER + 1, 2)
    return Placing(int(dx), int(dy), int(rng.integers(-SIZE_JITTER // 2, SIZE_JITTER // 2 + 1) * 2))
