"""What a pruned attention block costs with the pack's own work in it, and where pruning it is not worth that work.

Choosing tokens compares them with each other, which grows with the square of their number, while what is saved grows
with the square of the width. So the deep blocks of SDXL spend under 1 % of what they save on it, and the widest grids
of SD 1.5 (320 channels, one layer a block, 9216 tokens at 768 px) half as much again as they save.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ..tokens import kept_tokens
from .choosing_flops import choosing_flops
from .flops import block_flops
from .schedule import DSAPSchedule
from .settings import PruneSettings
from .structure import AttentionBlock

MOST_FOR_CHOOSING = 0.5
"""Of what the layers save: a block from which less than half of it is left errs as much as one from which all is."""


def pruned_flops(
    settings: PruneSettings,
    block: AttentionBlock,
    tokens: int,
    kept: int,
    *,
    remembered: bool = False,
    stand_ins_too: bool = True,
) -> int:
    """One attention block of so many `tokens` of which so many are `kept`, choosing them and filling in included.

    For one sample and 77 text tokens, as in `block_flops`; `remembered` and `stand_ins_too` as in `choosing_flops`.
    """
    choosing = choosing_flops(settings, block.width, tokens, kept, remembered=remembered, stand_ins_too=stand_ins_too)
    return _layers_flops(settings, block, tokens, kept, remembered) + choosing


def mean_pruned_flops(settings: PruneSettings, block: AttentionBlock, tokens: int, kept: int) -> float:
    """The same on average over a run, in which some model calls rank the tokens and the others remember."""
    return _mean_over_run(
        settings, lambda remembered: pruned_flops(settings, block, tokens, kept, remembered=remembered)
    )


def kept_in_block(
    schedule: DSAPSchedule, settings: PruneSettings, block: AttentionBlock, tokens: int, progress: float
) -> int:
    """How many of a block's `tokens` stay at `progress` (0 to 1): as many as the schedule says, 1 to all, or all."""
    kept = kept_tokens(tokens, schedule.ratio(progress, block))
    if kept < tokens and schedule.only_where_it_pays and not pays(settings, block, tokens, kept):
        return tokens
    return kept


def is_spared_for_its_cost(
    schedule: DSAPSchedule, settings: PruneSettings, block: AttentionBlock, tokens: int, progress: float
) -> bool:
    """Whether a block would lose tokens by its ratio, but stays whole because that does not pay."""
    kept = kept_in_block(schedule, settings, block, tokens, progress)
    return kept > kept_tokens(tokens, schedule.ratio(progress, block))


@lru_cache(maxsize=1024)
def pays(settings: PruneSettings, block: AttentionBlock, tokens: int, kept: int) -> bool:
    """Whether choosing tokens takes no more than `MOST_FOR_CHOOSING` of what the layers save without the others."""
    layers = _mean_over_run(settings, lambda remembered: _layers_flops(settings, block, tokens, kept, remembered))
    choosing = mean_pruned_flops(settings, block, tokens, kept) - layers
    return choosing <= MOST_FOR_CHOOSING * (block_flops(block, tokens) - layers)


def _layers_flops(settings: PruneSettings, block: AttentionBlock, tokens: int, kept: int, remembered: bool) -> int:
    point = settings.point(block.layers, remembered=remembered)
    return block_flops(block, tokens, kept, point=point, weighted=settings.weighs)


def _mean_over_run(settings: PruneSettings, cost: Callable[[bool], int]) -> float:
    """Of what a model call costs, by whether it goes by a ranking that is remembered."""
    if not settings.ranks_by_attention or settings.rank_interval == 1:
        return cost(False)
    remembered = cost(True)
    return remembered + settings.fresh_share * (cost(False) - remembered)
