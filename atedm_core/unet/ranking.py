"""From attention to a token subset: rank, select, and choose stand-ins, as the settings say.

B samples, H heads, N tokens, M text tokens, C channels, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..tokens import TokenSubset, even_scores
from .flops import PRUNE_POINTS, PrunePoint
from .gwpr import combine_heads, cross_gwpr, gwpr, lattice_voters
from .recovery import (
    RECOVERIES,
    STAND_INS,
    Recovery,
    StandIn,
    stand_in_by_attention,
    stand_in_by_cosine,
    stand_in_by_grid,
)
from .redundancy import redundancy_scores
from .temporal import oldest_first

Ranking = Literal["redundancy", "self-attention", "cross-attention", "none"]
Selection = Literal["stratified", "top-k"]
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
Voters = Literal["all", "lattice"]
VOTERS: tuple[Voters, ...] = get_args(Voters)
MAX_ITERATIONS = 20
LATTICE_VOTERS = 256
MAX_RANK_INTERVAL = 20

QueriesKeys = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PruneSettings:
    """How tokens are ranked, chosen and filled in again; how many is the schedule's business.

    The defaults are those that came nearest to the unpruned picture in `docs/fidelity.md` (demo model, 20 steps, 64
    captions that were not used to choose them, equal FLOPs on SDXL, median PSNR): the paper's recipe 28.7 dB; with
    `stratified`, `cosine`, `update` and no early phase in its place 41.1; with `redundancy` ranking as well 54.3. From
    there `copy` comes to 51.6, and `temporal`, which needs memory, to 53.8.

    Attributes:
        ranking: `redundancy` keeps the tokens that nothing near them resembles. `self-attention` is the paper's,
            page rank over who attends to whom, and `cross-attention` its form for the prompt. With `none` tokens come
            in an even order, which costs nothing.
        iterations: 1 to 20 rounds of page rank, where attention ranks.
        selection: `stratified` keeps the best token of every 2 x 2 cell first; `top-k` is the paper's.
        stand_in: which kept token stands for a dropped one; `attention` is the paper's.
        recovery: what it hands over before the next convolution; `copy` is the paper's. With `temporal` a dropped token
            takes its own last update instead, and which tokens are dropped rotates.
        prune_from: where in an attention block tokens are dropped. `after first layer` is the paper's. Where attention
            ranks, `block start` uses an earlier step's ranking, and drops inside the first layer if there is none.
        rank_interval: 1 to 20, where attention ranks: at every n-th noise level, with the last ranking in between.
        voters: whose attention ranks in self-attention: `all` queries, or a regular `lattice` of about 256 of them.
        warm_start: start from the scores of the last ranking of the same condition and block, not from uniform ones.

    Raises:
        ValueError: a value is none of those offered.
    """

    ranking: Ranking = "redundancy"
    iterations: int = 1
    selection: Selection = "stratified"
    stand_in: StandIn = "cosine"
    recovery: Recovery = "update"
    prune_from: PrunePoint = "after first layer"
    rank_interval: int = 1
    voters: Voters = "lattice"
    warm_start: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
        if not 1 <= self.iterations <= MAX_ITERATIONS:
            raise ValueError(f"iterations is {self.iterations}: give a whole number from 1 to {MAX_ITERATIONS}")
        if not 1 <= self.rank_interval <= MAX_RANK_INTERVAL:
            raise ValueError(
                f"rank_interval is {self.rank_interval}: give a whole number from 1 to {MAX_RANK_INTERVAL}"
            )

    @property
    def ranks_by_attention(self) -> bool:
        """Whether a layer's attention has to be seen before tokens can be ranked."""
        return self.ranking in ("self-attention", "cross-attention")

    @property
    def needs_only_self_attention(self) -> bool:
        """Whether a layer's queries and keys can go once its self-attention has ranked the tokens."""
        return self.ranking == "self-attention" and self.stand_in != "attention"


_CHOICES: dict[str, tuple[str, ...]] = {
    "ranking": RANKINGS,
    "selection": SELECTIONS,
    "stand_in": STAND_INS,
    "recovery": RECOVERIES,
    "prune_from": PRUNE_POINTS,
    "voters": VOTERS,
}


@dataclass(frozen=True)
class LayerAttention:
    """What a layer's attention showed.

    Attributes:
        queries: of its self-attention, `[B, H, N, D]`.
        keys: `[B, H, N, D]`.
        row_log_sum: `[B, H, N]` log-sum-exp of the self-attention's logits, where its kernel gave it.
        cross: queries `[B, H, N, D]` and keys `[B, H, M, D]` of its cross-attention, needed to rank by it.
    """

    queries: Tensor
    keys: Tensor
    row_log_sum: Tensor | None = None
    cross: QueriesKeys | None = None


def rank_tokens(
    settings: PruneSettings, attention: LayerAttention, grid: tuple[int, int], start: Tensor | None = None
) -> Tensor:
    """G-WPR scores per head, `[B, H, N]` float32.

    Args:
        settings: how to rank.
        attention: of the layer that ranks.
        grid: (height, width) in tokens, height * width = N.
        start: scores of an earlier ranking to start from, same shape.

    Raises:
        ValueError: cross-attention is to rank and was not given, or no attention is to rank.
    """
    if not settings.ranks_by_attention:
        raise ValueError(f"ranking is {settings.ranking!r}, which no attention is needed for: use rank_states")
    if settings.ranking == "cross-attention":
        if attention.cross is None:
            raise ValueError("ranking is 'cross-attention', but no cross-attention queries and keys were given")
        return cross_gwpr(*attention.cross, start=start, iterations=settings.iterations)
    voters = None
    if settings.voters == "lattice" and grid[0] * grid[1] > LATTICE_VOTERS:
        voters = lattice_voters(grid, LATTICE_VOTERS, attention.queries.device)
    return gwpr(
        attention.queries,
        attention.keys,
        start=start,
        iterations=settings.iterations,
        row_log_sum=attention.row_log_sum,
        voters=voters,
    )


def rank_states(settings: PruneSettings, hidden: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scores `[B, 1, N]` float32 of the rankings that need no attention.

    Args:
        settings: how to rank.
        hidden: states `[B, N, C]` at the pruning point.
        grid: (height, width) in tokens, height * width = N.
    """
    if settings.ranking == "redundancy":
        return redundancy_scores(hidden, grid).unsqueeze(1)
    return even_scores(grid, hidden.device).expand(hidden.shape[0], 1, -1)


def select_tokens(
    settings: PruneSettings, per_head: Tensor, keep: int, grid: tuple[int, int], age: Tensor | None = None
) -> TokenSubset:
    """The tokens that stay; stand-ins are still to be chosen.

    Args:
        settings: how to choose.
        per_head: scores `[B, H, N]`.
        keep: how many stay, 1 to N.
        grid: (height, width) in tokens.
        age: `[B, N]`, noise levels since each token's last update, where tokens are to take turns.
    """
    scores = combine_heads(per_head)
    if age is not None:
        scores = oldest_first(scores, age)
    if settings.selection == "top-k":
        return TokenSubset.top(scores, keep)
    return TokenSubset.stratified(scores, keep, grid)


def choose_stand_ins(
    settings: PruneSettings,
    subset: TokenSubset,
    grid: tuple[int, int],
    hidden: Tensor,
    attention: LayerAttention | None,
) -> TokenSubset:
    """The subset with the stand-ins that the settings ask for.

    Args:
        settings: how to choose.
        subset: of N tokens.
        grid: (height, width) in tokens.
        hidden: states `[B, N, C]` at the pruning point, compared by cosine stand-ins.
        attention: of the layer that ranked; without it, as at a block's start, cosine takes the place of attention.
    """
    if settings.recovery == "zero":
        return subset
    if settings.stand_in == "grid":
        return stand_in_by_grid(subset, grid)
    if settings.stand_in == "attention" and attention is not None:
        return stand_in_by_attention(subset, attention.queries, attention.keys, attention.row_log_sum)
    return stand_in_by_cosine(subset, hidden)
