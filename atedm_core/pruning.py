"""From attention to a token subset: rank, select, and choose stand-ins, as the settings say.

B samples, H heads, N tokens, M text tokens, C channels, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from .gwpr import combine_heads, cross_gwpr, gwpr
from .recovery import (
    RECOVERIES,
    STAND_INS,
    Recovery,
    StandIn,
    stand_in_by_attention,
    stand_in_by_cosine,
    stand_in_by_grid,
)
from .tokens import TokenSubset

Ranking = Literal["self-attention", "cross-attention"]
Selection = Literal["stratified", "top-k"]
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
MAX_ITERATIONS = 20

QueriesKeys = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PruneSettings:
    """How tokens are ranked, chosen and filled in again; how many is the schedule's business.

    The defaults of `selection`, `stand_in` and `recovery` depart from the paper: on a small trained U-Net each came
    closer to the unpruned picture than the paper's choice, which stays available.

    Attributes:
        ranking: the attention that votes. The paper found self-attention better.
        iterations: 1 to 20 rounds of page rank.
        selection: `stratified` keeps the best token of every 2 x 2 cell first; `top-k` is the paper's.
        stand_in: which kept token stands for a dropped one; `attention` is the paper's.
        recovery: what it hands over before the next convolution; `copy` is the paper's.

    Raises:
        ValueError: a value is none of those offered.
    """

    ranking: Ranking = "self-attention"
    iterations: int = 1
    selection: Selection = "stratified"
    stand_in: StandIn = "cosine"
    recovery: Recovery = "update"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
        if not 1 <= self.iterations <= MAX_ITERATIONS:
            raise ValueError(f"iterations is {self.iterations}: give a whole number from 1 to {MAX_ITERATIONS}")


_CHOICES: dict[str, tuple[str, ...]] = {
    "ranking": RANKINGS,
    "selection": SELECTIONS,
    "stand_in": STAND_INS,
    "recovery": RECOVERIES,
}


def choose_tokens(
    settings: PruneSettings,
    keep: int,
    grid: tuple[int, int],
    hidden: Tensor,
    self_attention: QueriesKeys,
    cross_attention: QueriesKeys | None = None,
) -> TokenSubset:
    """The tokens that stay, with a stand-in for each that does not.

    Args:
        settings: how to choose.
        keep: how many stay, 1 to N.
        grid: (height, width) in tokens, height * width = N.
        hidden: states `[B, N, C]` at the pruning point, compared by cosine stand-ins.
        self_attention: queries and keys `[B, H, N, D]`.
        cross_attention: queries `[B, H, N, D]` and keys `[B, H, M, D]`, needed to rank by cross-attention.

    Raises:
        ValueError: cross-attention is to rank and was not given.
    """
    if settings.ranking == "cross-attention":
        if cross_attention is None:
            raise ValueError("ranking is 'cross-attention', but no cross-attention queries and keys were given")
        per_head = cross_gwpr(*cross_attention, iterations=settings.iterations)
    else:
        per_head = gwpr(*self_attention, iterations=settings.iterations)
    scores = combine_heads(per_head)
    if settings.selection == "top-k":
        subset = TokenSubset.top(scores, keep)
    else:
        subset = TokenSubset.stratified(scores, keep, grid)
    if settings.recovery == "zero":
        return subset
    if settings.stand_in == "attention":
        return stand_in_by_attention(subset, *self_attention)
    if settings.stand_in == "cosine":
        return stand_in_by_cosine(subset, hidden)
    return stand_in_by_grid(subset, grid)
