"""Sets of captions that share nothing: for each of the lab's subjects one to choose settings by and one to confirm.

All are scenes that the subject's model was never trained on, and every picture has a seed of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, Literal

import numpy as np

from demo.photographs.catalogue import COLOURS, KINDS
from demo.photographs.scenes import PHOTO_TEMPLATES, PhotoScene, is_held_out
from demo.photographs.scenes import SIZES as PHOTO_SIZES
from demo.scenes import PLACES, TEMPLATES, caption, split_scenes

Subject = Literal["shapes", "photographs"]
"""What the pictures show: flat shapes on flat grounds, or photographed objects over photographs."""
CaptionSet = Literal["choose", "confirm", "photographs, choose", "photographs, confirm"]
FIRST_SEED: dict[CaptionSet, int] = {
    "choose": 500_000,
    "confirm": 900_000,
    "photographs, choose": 1_300_000,
    "photographs, confirm": 1_700_000,
}
LARGEST_SET = 200
BATCH = 4
"""Pictures drawn at once. Fixed, because rounding depends on it, and rounding can tip the choice of a token."""


@dataclass(frozen=True)
class Caption:
    """A caption with the scene it says, a `demo.scenes.Scene` or a `PhotoScene`, and the seed of its noise."""

    text: str
    scene: Any
    seed: int


def batches(count: int) -> int:
    """How many batches hold `count` captions."""
    return -(-count // BATCH)


def subject_of(name: CaptionSet) -> Subject:
    """What the captions of a set show."""
    return "photographs" if name.startswith("photographs") else "shapes"


def on_subject(name: CaptionSet, subject: Subject) -> CaptionSet:
    """The set for the same purpose on a subject.

    >>> on_subject("confirm", "photographs")
    'photographs, confirm'
    """
    purpose = name.rpartition(", ")[2]
    return next(one for one in FIRST_SEED if subject_of(one) == subject and one.endswith(purpose))


@cache
def batch(name: CaptionSet, number: int) -> tuple[Caption, ...]:
    """The captions of one batch of a set."""
    if not 0 <= number < batches(LARGEST_SET):
        raise ValueError(f"there is no batch {number} of captions: a set holds {LARGEST_SET}")
    subject = subject_of(name)
    scenes, templates = (_photo_scenes(), PHOTO_TEMPLATES) if subject == "photographs" else (_shapes(), TEMPLATES)
    order = np.random.default_rng(20).permutation(len(scenes))
    start = 0 if name.endswith("choose") else LARGEST_SET
    indices = range(number * BATCH, (number + 1) * BATCH)
    chosen = [(i, scenes[order[start + i]]) for i in indices]
    return tuple(Caption(caption(scene, i, templates), scene, FIRST_SEED[name] + i) for i, scene in chosen)


@cache
def _shapes() -> list[Any]:
    return split_scenes()[1]


@cache
def _photo_scenes() -> list[PhotoScene]:
    """Combinations of kind, size and place that are held out, each over grounds of all colours.

    The object's colour is left open: few kinds were seen in more than one.
    """
    return [
        PhotoScene(kind, None, place, size, ground)
        for kind, size, place, ground in product(KINDS, PHOTO_SIZES, PLACES, COLOURS)
        if is_held_out(kind, size, place)
    ]
