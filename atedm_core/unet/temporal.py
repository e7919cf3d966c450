"""Temporal recovery: a dropped token takes its own last update, and which tokens are dropped rotates.

From one noise level to the next an attention block changes a token in nearly the same way. So every token's update, its
state at the block's end less its state where tokens are dropped, is remembered. The noise levels that a token has gone
without are added to its score (staleness, after CAT Pruning, Cheng et al. 2025, arXiv 2502.00433), so that it is kept
again soon: within N / K levels, or four where each 2 x 2 cell keeps one.

Whether a memory is worth using shows on the tokens that are kept: where their remembered updates and the true ones are
far apart, as in the first steps, after a jump to another noise level, or if the memory is of another picture, dropped
tokens take their stand-in's update instead.

B samples, N tokens on the full grid, K kept, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..tokens import TokenSubset, scatter_tokens

TRUSTED_ERROR = 0.15
"""A sample's memory is used while its squared error over the kept tokens is at most this share of their squared
updates; how it was chosen is in `docs/fidelity.md`."""


@dataclass(frozen=True)
class TokenUpdates:
    """The last `update` `[B, N, C]` of every token, of when it was last kept, and how old that is.

    `age` `[B, N]` float32 is in noise levels; a token that was never kept counts as if it had been kept just before the
    first level seen, and its update means nothing: `known` `[B, N]` bool is false.
    """

    update: Tensor
    age: Tensor
    known: Tensor

    @classmethod
    def of_all(cls, before: Tensor, after: Tensor) -> TokenUpdates:
        """From a pass of the block on all tokens: their states `[B, N, C]` at the pruning point and at the end."""
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


def oldest_first(scores: Tensor, age: Tensor) -> Tensor:
    """Scores by which tokens take turns: whoever has gone without for longest, and of those the most important.

    A score counts for less than one noise level of age, however much it stands out: attention sinks, whose scores are
    a hundred times the average, would otherwise keep their neighbours out for the whole run. Scores `[B, N]`, not
    negative, keep their dtype; `age` `[B, N]` is in whole noise levels since each token's last update.
    """
    middle = scores.mean(dim=1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
    neglect = (age - age.amin(dim=1, keepdim=True)).to(scores.dtype)
    return scores / (scores + middle) + neglect


def recover_with_own(
    subset: TokenSubset,
    before: Tensor,
    after: Tensor,
    own: TokenUpdates,
    start: Tensor | None = None,
    entered: Tensor | None = None,
) -> tuple[Tensor, TokenUpdates]:
    """The full grid `[B, N, C]` again, and what to remember: `own` with the kept tokens' updates in it, their age 0.

    Kept tokens are as they came out, `after` `[B, K, C]`; dropped ones add their own last update to their state
    `before` `[B, N, C]`, at the pruning point. One that has none, and every one of a sample whose memory is not to be
    trusted, adds its stand-in's change since pruning (recovery `update`). `start` `[B, N, C]` are the states from which
    remembered updates count, where that is not the pruning point. Where `entered` `[B, K, C]`, means of several tokens,
    went through the layers in the kept ones' place, these have their own state and the change of that.
    """
    if entered is None:
        change = after - subset.gather(before)
    else:
        change = after - entered
        after = subset.gather(before) + change
    fresh = change if start is None else after - subset.gather(start)
    usable = (own.known & is_trusted(subset, fresh, own).unsqueeze(1)).unsqueeze(-1)
    filled = torch.where(usable, (before if start is None else start) + own.update, before + subset.expand(change))
    remembered = TokenUpdates(
        scatter_tokens(own.update, subset.keep_index, fresh),
        own.age.scatter(1, subset.keep_index, 0.0),
        own.known.scatter(1, subset.keep_index, True),
    )
    return scatter_tokens(filled, subset.keep_index, after), remembered


def is_trusted(subset: TokenSubset, fresh: Tensor, own: TokenUpdates) -> Tensor:
    """`[B]`, whether memory predicts the kept tokens' true updates `[B, K, C]`, or knows none of them to compare."""
    comparable = own.known.gather(1, subset.keep_index)
    error = (fresh - subset.gather(own.update)).float().square().sum(dim=-1)
    size = fresh.float().square().sum(dim=-1)
    return (error * comparable).sum(dim=1) <= TRUSTED_ERROR * (size * comparable).sum(dim=1)
