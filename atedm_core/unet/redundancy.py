"""Ranking tokens by how much is lost without them: those that nothing near them resembles stay.

A lattice of anchors, one token of every 2 x 2 cell, is kept before all others; of the rest, the less alike a token is
to its most similar anchor, the higher it ranks. Token merging goes by the same similarity (ToMe, Bolya and Hoffman
2023, section 4), between keys; here it is between hidden states at the pruning point, which is where a dropped token
is given back the change of its most similar kept one.
"""

from __future__ import annotations

from torch import Tensor

from ..tokens import EvenOrder
from .similarity import highest_cosine

CELL = 2


def redundancy_scores(hidden: Tensor, grid: tuple[int, int], order: EvenOrder | None = None) -> Tensor:
    """Scores `[B, N]`: anchors over 0.5, the highest of them evenly spread; the others up to 0.5.

    They are float32 (float64 for float64 states `[B, N, C]`). `grid` is (height, width) in tokens; its `order` is made
    anew where it is not given.
    """
    order = order or EvenOrder.of(grid, hidden.device)

    def anchors(states: Tensor) -> Tensor:
        return states.unflatten(1, grid)[:, ::CELL, ::CELL].flatten(1, 2)

    scores = (1.0 - highest_cosine(hidden, anchors)).clamp_min(0.0) / 4.0
    # Anchors are the quarter of the grid that comes first in its even order.
    scores.unflatten(1, grid)[:, ::CELL, ::CELL] = order.scores.unflatten(0, grid)[::CELL, ::CELL]
    return scores
