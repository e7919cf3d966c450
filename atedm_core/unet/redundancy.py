"""Ranking tokens by how much is lost without them: those that nothing near them resembles stay.

A lattice of anchors, one token of every 2 x 2 cell, is kept before all others; of the rest, the less alike a token is
to its most similar anchor, the higher it ranks. Token merging goes by the same similarity (ToMe, Bolya and Hoffman
2023, section 4), between keys; here it is between hidden states at the pruning point, which is where a dropped token
is given back the change of its most similar kept one.

B samples, N tokens, C channels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..log_sum_exp import CHUNK_LOGITS
from ..tokens import even_scores, gather_tokens

CELL = 2


def redundancy_scores(hidden: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scores `[B, N]` float32: anchors over 0.5, the highest of them evenly spread; the others up to 0.5.

    Args:
        hidden: states `[B, N, C]` at the pruning point, any float dtype.
        grid: (height, width) in tokens, height * width = N.

    >>> hidden = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [1.0, 0.0], [0.0, 1.0]]])
    >>> redundancy_scores(hidden, (1, 4)).argsort(descending=True).tolist()
    [[0, 2, 3, 1]]
    """
    anchors, evenness = _anchors(grid, hidden.device)
    unlike = 1.0 - _highest_similarity(hidden, anchors)
    return (unlike.clamp_min(0.0) / 4.0).scatter(1, anchors.expand(len(hidden), -1), evenness.expand(len(hidden), -1))


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _anchors(grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Every other token in both directions, the quarter that comes first in the even order: positions, and scores."""
    height, width = grid
    rows = torch.arange(0, height, CELL, device=device).unsqueeze(1) * width
    positions = (rows + torch.arange(0, width, CELL, device=device)).flatten()
    return positions, even_scores(grid, device)[positions]


def _highest_similarity(hidden: Tensor, anchors: Tensor) -> Tensor:
    """`[B, N]` float32, the cosine of every token with the anchor most like it; chunked over tokens."""
    normed = torch.nn.functional.normalize(hidden, dim=-1)
    kept = gather_tokens(normed, anchors.expand(len(hidden), -1)).transpose(1, 2)
    step = max(1, CHUNK_LOGITS // max(1, len(hidden) * len(anchors)))
    return torch.cat([(part @ kept).amax(dim=-1).float() for part in normed.split(step, dim=1)], dim=1)
