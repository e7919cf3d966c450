"""What one run remembers of its rankings, by condition and attention block.

A ranking serves a condition's later noise levels while the settings say so and the grid stays the same. A condition
that is new, or whose picture has changed its size, has no ranking and gets one of its own, so that a picture does not
depend on which conditions the host ran together.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...atedm_core.tokens import TokenSubset


@dataclass
class Ranking:
    """The last ranking of one condition in one block.

    Attributes:
        scores: `[b, N]` of the condition's b samples.
        subset: what was chosen by them, stand-ins included.
        grid: (height, width) in tokens.
        sigma: noise level of the last model call that came by.
        age: noise levels since the ranking; 0 at its own.
    """

    scores: Tensor
    subset: TokenSubset
    grid: tuple[int, int]
    sigma: float
    age: int = 0


class RankMemory:
    """Rankings of one run, by (condition uuid, block name)."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._rankings: dict[tuple[Hashable, str], Ranking] = {}

    def recall(
        self, uuid: Hashable, block: str, samples: int, grid: tuple[int, int], sigma: float, device: torch.device
    ) -> Ranking | None:
        """The condition's last ranking, if it still serves and is for this many samples on this grid and device."""
        found = self._rankings.get((uuid, block))
        if found is None or (found.grid, found.scores.shape[0], found.scores.device) != (grid, samples, device):
            return None
        if sigma != found.sigma:
            found.sigma = sigma
            found.age += 1
        return found if self._interval > 1 and found.age < self._interval else None

    def store(
        self,
        uuids: list[Hashable],
        block: str,
        scores: Tensor,
        subset: TokenSubset,
        grid: tuple[int, int],
        sigma: float,
    ) -> None:
        """Keep the ranking of a batch of conditions, one for each; those before it go."""
        parts = zip(uuids, scores.chunk(len(uuids)), subset.split(len(uuids)), strict=True)
        self._rankings.update({(uuid, block): Ranking(own, chosen, grid, sigma) for uuid, own, chosen in parts})

    def reset(self) -> None:
        """Forget everything."""
        self._rankings.clear()


def join(rankings: list[Ranking]) -> tuple[Tensor, TokenSubset]:
    """Scores and subsets of several conditions, as one batch in their order."""
    scores = [ranking.scores for ranking in rankings]
    return torch.cat(scores), TokenSubset.join([ranking.subset for ranking in rankings])
