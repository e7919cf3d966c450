"""Two sets of captions that share nothing: one to choose settings by, one to confirm what was chosen.

Both are scenes that the demo model was never trained on, and every picture has a seed of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from demo.scenes import Scene, caption, split_scenes

CaptionSet = Literal["choose", "confirm"]
FIRST_SEED: dict[CaptionSet, int] = {"choose": 500_000, "confirm": 900_000}
LARGEST_SET = 200
BATCH = 4
"""Pictures drawn at once. Fixed, because rounding depends on it, and rounding can tip the choice of a token."""


@dataclass(frozen=True)
class Caption:
    """A caption with the scene it says and the seed of its noise."""

    text: str
    scene: Scene
    seed: int


def batches(count: int) -> int:
    """How many batches hold `count` captions."""
    return -(-count // BATCH)


@cache
def batch(name: CaptionSet, number: int) -> tuple[Caption, ...]:
    """The captions of one batch of a set."""
    if not 0 <= number < batches(LARGEST_SET):
        raise ValueError(f"there is no batch {number} of captions: a set holds {LARGEST_SET}")
    scenes = split_scenes()[1]
    order = np.random.default_rng(20).permutation(len(scenes))
    start = LARGEST_SET * list(FIRST_SEED).index(name)
    indices = range(number * BATCH, (number + 1) * BATCH)
    chosen = [(i, scenes[order[start + i]]) for i in indices]
    return tuple(Caption(caption(scene, i), scene, FIRST_SEED[name] + i) for i, scene in chosen)
