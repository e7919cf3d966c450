"""How tokens are ranked, chosen and filled in again, and where in an attention block they are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_choice, check_range

Ranking = Literal["redundancy", "self-attention", "cross-attention", "none"]
Selection = Literal["stratified", "top-k"]
StandIn = Literal["cosine", "attention", "grid"]
Recovery = Literal["regression", "update", "copy", "zero", "interpolate"]
Merge = Literal["mean", "weight", "none"]
Voters = Literal["all", "lattice"]
PrunePoint = Literal["after first layer", "inside first layer", "block start"]
"""Where tokens are dropped: after the first layer (the paper), after its self-attention, or before it."""
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
STAND_INS: tuple[StandIn, ...] = get_args(StandIn)
RECOVERIES: tuple[Recovery, ...] = get_args(Recovery)
MERGES: tuple[Merge, ...] = get_args(Merge)
VOTERS: tuple[Voters, ...] = get_args(Voters)
PRUNE_POINTS: tuple[PrunePoint, ...] = get_args(PrunePoint)
MAX_ITERATIONS = 20
MAX_RANK_INTERVAL = 20


def prune_point(layers: int, wanted: PrunePoint = "after first layer", *, ranks: bool = False) -> PrunePoint:
    """Where a block of so many attention layers drops its tokens: the point wanted, or the nearest possible one.

    After a block's only layer nothing is left to save, and where attention `ranks` in this very call, it has to be run
    before tokens can be dropped.
    """
    too_late = layers == 1 and wanted == "after first layer"
    too_early = ranks and wanted == "block start"
    return "inside first layer" if too_late or too_early else wanted


@dataclass(frozen=True)
class PruneSettings:
    """How tokens are ranked, chosen and filled in again; how many is the schedule's business.

    The defaults came nearest to the unpruned picture in `docs/fidelity.md`. A ValueError names a value not offered.

    Attributes:
        ranking: `redundancy` keeps the tokens that nothing near them resembles; `self-attention` is the paper's page
            rank, `cross-attention` its form for the prompt. With `none` tokens come in an even order at no cost.
        iterations: 1 to 20 rounds of page rank, where attention ranks.
        selection: where attention ranks, `stratified` keeps the best token of every 2 x 2 cell first; `top-k` is the
            paper's. The other rankings cover every cell by themselves.
        stand_in: which kept token stands for a dropped one; `attention` is the paper's.
        recovery: what it hands over before the next convolution (`recovery.recover`); `copy` is the paper's.
        prune_from: where in an attention block tokens are dropped (`prune_point`).
        rank_interval: 1 to 20, where attention ranks: at every n-th noise level, with the last ranking in between.
        voters: whose attention ranks in self-attention: `all` queries (the paper), or a regular `lattice` of about 256.
        merge: what a kept token is to the dropped ones that it stands for. With `weight` it counts in self-attention
            for as many tokens as it stands for (proportional attention: ToMe, Bolya and Hoffman 2023, section 3), with
            `mean` it also goes through the layers as the mean of them; with `none` (the paper) it is itself alone.
    """

    ranking: Ranking = "redundancy"
    iterations: int = 1
    selection: Selection = "stratified"
    stand_in: StandIn = "cosine"
    recovery: Recovery = "regression"
    prune_from: PrunePoint = "after first layer"
    rank_interval: int = 1
    voters: Voters = "lattice"
    merge: Merge = "mean"

    def __post_init__(self) -> None:
        check_choice("ranking", self.ranking, RANKINGS)
        check_choice("selection", self.selection, SELECTIONS)
        check_choice("stand_in", self.stand_in, STAND_INS)
        check_choice("recovery", self.recovery, RECOVERIES)
        check_choice("prune_from", self.prune_from, PRUNE_POINTS)
        check_choice("voters", self.voters, VOTERS)
        check_choice("merge", self.merge, MERGES)
        check_range("iterations", self.iterations, 1, MAX_ITERATIONS)
        check_range("rank_interval", self.rank_interval, 1, MAX_RANK_INTERVAL)

    @property
    def ranks_by_attention(self) -> bool:
        """Whether a layer's attention has to be seen before tokens can be ranked."""
        return self.ranking in ("self-attention", "cross-attention")

    @property
    def needs_only_self_attention(self) -> bool:
        """Whether a layer's queries and keys can go once its self-attention has ranked the tokens."""
        return self.ranking == "self-attention" and self.stand_in != "attention"

    @property
    def compares_states(self) -> bool:
        """Whether tokens are compared by their states, to rank them or to find their stand-ins."""
        return self.ranking == "redundancy" or (self.stand_in == "cosine" and self.recovery != "zero")

    @property
    def weighs(self) -> bool:
        """Whether kept tokens count in self-attention for those that they stand for, who have to be there for it."""
        return self.merge != "none" and self.recovery != "zero"

    @property
    def fresh_share(self) -> float:
        """Share of noise levels at which attention ranks the tokens anew, 0 to 1."""
        return 1.0 / self.rank_interval if self.ranks_by_attention else 0.0

    def point(self, layers: int, *, remembered: bool) -> PrunePoint:
        """`prune_point` of a block in one call, with an earlier ranking where that is `remembered`."""
        return prune_point(layers, self.prune_from, ranks=self.ranks_by_attention and not remembered)


DEFAULT_SETTINGS = PruneSettings()
PAPER_SETTINGS = PruneSettings(
    "self-attention", 10, "top-k", "attention", "copy", "after first layer", voters="all", merge="none"
)
"""AT-EDM's own recipe (Wang et al., CVPR 2024). It iterates until nothing changes, which ten rounds come to."""
