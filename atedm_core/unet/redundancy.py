"""Ranking tokens by how much is lost without them: those that nothing near them resembles stay.

A lattice of anchors, one token of every 2 x 2 cell, is kept before all others; of the rest, the less alike a token is
to its most similar anchor, the higher it ranks. Token merging goes by the same similarity (ToMe, Bolya and Hoffman
2023, section 4), between keys; here it is between hidden states at the pruning point, which is where a dropped token
is given back the change of its most similar kept one.

B samples, N tokens, C channels.
"""

from __future__ import annotations

from torch import Tensor

from ..log_sum_exp import CHUNK_LOGITS
from ..tokens import EvenOrder
from .similarity import highest_cosine

CELL = 2


def redundancy_scores(hidden: Tensor, grid: tuple[int, int], order: EvenOrder | None = None) -> Tensor:
    """Scores `[B, N]`: anchors over 0.5, the highest of them evenly spread; the others up to 0.5.

    Args:
        hidden: states `[B, N, C]` at the pruning point, any float dtype.
        grid: (height, width) in tokens, height * width = N.
        order: of the grid, made anew where it is not given.

    Returns:
        float32 (float64 for float64 states).

    >>> hidden = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [1.0, 0.0], [0.0, 1.0]]])
    >>> redundancy_scores(hidden, (1, 4)).argsort(descending=True).tolist()
    [[0, 2, 3, 1]]
    """
    order = order or EvenOrder.of(grid, hidden.device)
    anchors = hidden.unflatten(1, grid)[:, ::CELL, ::CELL].flatten(1, 2)
    step = max(1, CHUNK_LOGITS // max(1, len(hidden) * anchors.shape[1]))
    scores = (1.0 - highest_cosine(hidden, anchors, step)).clamp_min(0.0) / 4.0
    # Anchors are the quarter of the grid that comes first in its even order.
    scores.unflatten(1, grid)[:, ::CELL, ::CELL] = order.scores.unflatten(0, grid)[::CELL, ::CELL]
    return scores
