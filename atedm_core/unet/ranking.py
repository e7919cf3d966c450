"""From attention or states to a token subset: rank, select, and choose stand-ins, as the settings say.

B samples, H heads, N tokens on a (height, width) grid, M text tokens, C channels, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..tokens import EvenOrder, TokenSubset
from .gwpr import combine_heads, cross_gwpr, gwpr, lattice_voters
from .recovery import stand_in_by_attention, stand_in_by_cosine, stand_in_by_grid
from .redundancy import redundancy_scores
from .settings import PruneSettings
from .similarity import Directions

LATTICE_VOTERS = 256

QueriesKeys = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LayerAttention:
    """What a layer's attention showed: of self-attention queries and keys `[B, H, N, D]`.

    `row_log_sum` `[B, H, N]` is the log-sum-exp of its logits, where its kernel gave it; `cross` are queries
    `[B, H, N, D]` and keys `[B, H, M, D]` of cross-attention, needed to rank by it.
    """

    queries: Tensor
    keys: Tensor
    row_log_sum: Tensor | None = None
    cross: QueriesKeys | None = None


RankTokens = Callable[[PruneSettings, LayerAttention, tuple[int, int]], Tensor]
"""What ranks where attention ranks: `rank_tokens`, or a control in its place."""


def rank_tokens(settings: PruneSettings, attention: LayerAttention, grid: tuple[int, int]) -> Tensor:
    """G-WPR scores `[B, N]` float32 over all heads; a ValueError where the attention that is to rank is not given."""
    if not settings.ranks_by_attention:
        raise ValueError(f"ranking is {settings.ranking!r}, which no attention is needed for: use rank_states")
    if settings.ranking == "cross-attention":
        if attention.cross is None:
            raise ValueError("ranking is 'cross-attention', but no cross-attention queries and keys were given")
        return combine_heads(cross_gwpr(*attention.cross, iterations=settings.iterations))
    few = settings.voters == "lattice" and grid[0] * grid[1] > LATTICE_VOTERS
    voters = lattice_voters(grid, LATTICE_VOTERS) if few else None
    known = attention.row_log_sum
    scores = gwpr(attention.queries, attention.keys, iterations=settings.iterations, row_log_sum=known, voters=voters)
    return combine_heads(scores)


def rank_states(
    settings: PruneSettings,
    hidden: Tensor | Directions,
    keep: int,
    grid: tuple[int, int],
    order: EvenOrder | None = None,
) -> Tensor:
    """Scores `[B, N]` of the rankings that need no attention, by the states `[B, N, C]` at the pruning point.

    `keep` is how many of the N tokens are to stay.

    They are float32 (float64 for float64 states). The grid's `order` is made anew where it is not given.
    """
    if settings.ranking == "redundancy":
        return redundancy_scores(hidden, grid, keep, order)
    rows = hidden.rows if isinstance(hidden, Directions) else hidden
    return (order or EvenOrder.of(grid, rows.device)).scores.expand(len(rows), -1)


def select_tokens(
    settings: PruneSettings,
    scores: Tensor,
    keep: int,
    grid: tuple[int, int],
    order: EvenOrder | None = None,
) -> TokenSubset:
    """The `keep` (1 to N) tokens that stay, by scores `[B, N]`; stand-ins are still to be chosen.

    Equal scores come in the grid's `order`, which is made anew where it is not given.
    """
    order = order or EvenOrder.of(grid, scores.device)
    if settings.selection == "top-k" or not settings.ranks_by_attention:  # the others cover every cell by themselves
        return TokenSubset.top(scores, keep, order)
    return TokenSubset.stratified(scores, keep, grid, order=order)


def choose_stand_ins(
    settings: PruneSettings,
    subset: TokenSubset,
    grid: tuple[int, int],
    hidden: Tensor | Directions,
    attention: LayerAttention | None,
) -> TokenSubset:
    """The subset of N tokens with the stand-ins that the settings ask for.

    Stand-ins by cosine compare `hidden`, the states `[B, N, C]` at the pruning point. Without the ranking layer's
    `attention`, as at a block's start, they take the place of stand-ins by attention.
    """
    if settings.recovery == "zero":
        return subset
    if settings.stand_in == "grid":
        return stand_in_by_grid(subset, grid)
    if settings.stand_in == "attention" and attention is not None:
        return stand_in_by_attention(subset, attention.queries, attention.keys, attention.row_log_sum, grid)
    return stand_in_by_cosine(subset, hidden, grid)
