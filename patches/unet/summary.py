"""What a run did, in words: one line for the log, and why nothing was pruned if nothing was."""

from __future__ import annotations

from math import prod

from ...atedm_core.unet.flops import block_flops
from ...atedm_core.unet.pruned_cost import kept_in_block, pruned_flops
from ...atedm_core.unet.structure import AttentionBlock
from ...report.words import Said, reason
from ..host.version import why_blocks_cannot_be_pruned
from .run import PruneRun


def planned_saving(run: PruneRun, sigmas: list[float], latent: tuple[int, int]) -> float:
    """The share of attention block FLOPs that the schedule saves at these noise levels, as far as can be known before.

    One model call a step, 77 text tokens, the whole picture, no other pack's patches: what a run does beyond that is
    where the actual saving departs from it.
    """
    structure, settings, schedule = run.method.structure, run.method.settings, run.method.schedule
    ranked_for: dict[AttentionBlock, int] = {}
    full = spent = 0
    for step, sigma in enumerate(sigmas[:-1]):
        progress = run.progress_at(sigma)
        for block in structure.blocks:
            tokens = prod(structure.grid(block.level, latent))
            remembered = settings.ranks_by_attention and step % settings.rank_interval > 0
            kept = kept_in_block(schedule, settings, block, tokens, progress)
            full += block_flops(block, tokens)
            if not remembered:
                ranked_for[block] = kept
            again = ranked_for[block] == kept
            spent += pruned_flops(settings, block, tokens, kept, remembered=remembered, stand_ins_too=again)
    return 1.0 - spent / full if full else 0.0


def summarize(run: PruneRun, steps: int, planned: float, finished: bool) -> str:
    """One line: tokens kept, attention FLOPs saved and planned to be, blocks, steps and model calls."""
    total = run.total()
    blocks = {name for _, name in run.tallies}
    pruned = {name for (_, name), spent in run.tallies.items() if spent.pruned_calls}
    calls = max((spent.calls for spent in run.tallies.values()), default=0)
    ended = "" if finished else " (interrupted)"
    return (
        f"AT-EDM: kept {total.kept_share:.1%} of tokens, saved {total.saved_share:.1%} of attention block FLOPs "
        f"(planned {planned:.1%}), pruned {len(pruned)} of {len(blocks)} attention blocks, {steps} steps, "
        f"{calls} model calls per condition{ended}"
    )


def explain_nothing_pruned(run: PruneRun) -> Said:
    """Why a run that finished pruned nothing, and what to change."""
    schedule = run.method.schedule
    if schedule.prune_ratio == 0:
        return reason("prune_ratio_off")
    if not run.tallies:
        too_old = why_blocks_cannot_be_pruned()
        return reason("no_block") if too_old is None else reason("other", text=too_old)
    if run.left_alone:
        foreign = next(iter(run.left_alone.values()))
        return reason("other", text=f"{foreign} replaces whole attention layers. Take it out of this model's path.")
    if run.not_worth_it:
        return reason("does_not_pay", ratio=schedule.prune_ratio)
    blocks = run.method.structure.blocks
    if any(schedule.ratio(progress, block) for progress in run.seen_progress() for block in blocks):
        return reason("too_small", ratio=schedule.prune_ratio)
    return reason("never_past_early", early=schedule.early_percent)
