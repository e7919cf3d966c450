"""Temporal recovery: a dropped token takes its own last update, and which tokens are dropped rotates.

From one noise level to the next an attention block changes a token in nearly the same way, which is what step caches
live on. So every token's update, its state at the block's end less its state where tokens are dropped, is remembered;
a token that is dropped takes the one that it last received itself. What is remembered grows old, so the noise levels
that a token has gone without are added to its score (staleness, after CAT Pruning, Cheng et al. 2025, arXiv
2502.00433), and every token is kept again soon.

B samples, N tokens on the full grid, K kept, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .tokens import TokenSubset

STALENESS_WEIGHT = 2.0
"""What one noise level without an update is worth, in average scores: a token of average score that went without for
one level ranks like one with three times its score that did not. On the demo model 1 to 4 come out alike."""


@dataclass(frozen=True)
class TokenUpdates:
    """The last update of every token, and how old it is.

    Attributes:
        update: `[B, N, C]`, state at the end of the block less state at the pruning point, when the token was last
            kept; without meaning where `known` is false.
        age: `[B, N]` float32, noise levels since then; a token that was never kept counts as if it had been kept just
            before the first level seen.
        known: `[B, N]` bool, whether the token was ever kept.
    """

    update: Tensor
    age: Tensor
    known: Tensor

    @classmethod
    def of_all(cls, before: Tensor, after: Tensor) -> TokenUpdates:
        """From a pass of the block on all tokens.

        Args:
            before: `[B, N, C]`, states at the pruning point.
            after: `[B, N, C]`, states at the end.
        """
        age = torch.zeros(before.shape[:2], device=before.device)
        return cls(after - before, age, torch.ones_like(age, dtype=torch.bool))

    @classmethod
    def none(cls, before: Tensor) -> TokenUpdates:
        """Of tokens `[B, N, C]` of which nothing is known yet."""
        # As old as if all had been kept at the level before, so that those dropped first come next.
        age = torch.ones(before.shape[:2], device=before.device)
        return cls(torch.zeros_like(before), age, torch.zeros_like(age, dtype=torch.bool))

    @classmethod
    def join(cls, parts: list[TokenUpdates]) -> TokenUpdates:
        """Several batches as one, in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            torch.cat([part.update for part in parts]),
            torch.cat([part.age for part in parts]),
            torch.cat([part.known for part in parts]),
        )

    def split(self, count: int) -> list[TokenUpdates]:
        """The batch in `count` equal parts."""
        parts = zip(self.update.chunk(count), self.age.chunk(count), self.known.chunk(count), strict=True)
        return [TokenUpdates(*part) for part in parts]

    def older(self, levels: int) -> TokenUpdates:
        """The same, seen this many noise levels later."""
        return replace(self, age=self.age + levels) if levels else self


def with_staleness(scores: Tensor, age: Tensor, weight: float = STALENESS_WEIGHT) -> Tensor:
    """Scores that grow with neglect: the score, plus `weight` times the sample's mean score per noise level of age.

    Age counts from the youngest token's, so that tokens of one age keep their scores to the bit.

    Args:
        scores: `[B, N]`, not negative.
        age: `[B, N]`, noise levels since each token's last update.
        weight: 0 or more; 0 leaves the order of the scores as it is.

    Returns:
        `[B, N]`, in the dtype of `scores`.

    >>> with_staleness(torch.tensor([[3.0, 1.0, 1.0, 3.0]]), torch.tensor([[1.0, 1.0, 2.0, 1.0]]), 1.0).tolist()
    [[3.0, 1.0, 3.0, 3.0]]
    """
    mean = scores.mean(dim=1, keepdim=True)
    neglect = (age - age.amin(dim=1, keepdim=True)).to(scores.dtype)
    return scores + weight * mean * neglect


def recover_with_own(
    subset: TokenSubset, before: Tensor, after: Tensor, own: TokenUpdates, start: Tensor | None = None
) -> tuple[Tensor, TokenUpdates]:
    """The full grid again: kept tokens as they came out, dropped ones with their own last update.

    A dropped token that has none adds its stand-in's change since pruning to its own state (recovery `update`).

    Args:
        subset: of N tokens.
        before: `[B, N, C]`, all states at the pruning point.
        after: `[B, K, C]`, the kept tokens' states at the end.
        own: what is remembered of all N tokens.
        start: `[B, N, C]`, the states from which remembered updates count, where that is not the pruning point.

    Returns:
        `[B, N, C]`, and what to remember: `own` with the kept tokens' updates in it, their age 0.
    """
    index = subset.keep_index.unsqueeze(-1).expand(-1, -1, after.shape[-1])
    own_start = before if start is None else start
    change = after - subset.gather(before)
    filled = torch.where(own.known.unsqueeze(-1), own_start + own.update, before + subset.expand(change))
    fresh = change if start is None else after - subset.gather(start)
    remembered = TokenUpdates(
        own.update.scatter(1, index, fresh),
        own.age.scatter(1, subset.keep_index, 0.0),
        own.known.scatter(1, subset.keep_index, True),
    )
    return filled.scatter(1, index, after), remembered
