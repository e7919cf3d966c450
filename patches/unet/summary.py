"""What a run did, in words: one line for the log, and why nothing was pruned if nothing was."""

from __future__ import annotations

from ...atedm_core.tokens import kept_tokens
from ...atedm_core.unet.flops import block_flops
from .run import PruneRun


def planned_saving(run: PruneRun, sigmas: list[float], latent: tuple[int, int]) -> float:
    """The share of attention block FLOPs that the schedule saves at these noise levels, as far as can be known before.

    One model call a step, 77 text tokens, the whole picture, no other pack's patches: what a run does beyond that is
    where the actual saving departs from it.
    """
    structure, settings, schedule = run.method.structure, run.method.settings, run.method.schedule
    full = spent = 0
    for step, sigma in enumerate(sigmas[:-1]):
        progress = run.progress_at(sigma)
        for block in structure.blocks:
            height, width = structure.grid(block.level, latent)
            tokens = height * width
            point = settings.point(block.layers, remembered=step % settings.rank_interval > 0)
            full += block_flops(block, tokens)
            spent += block_flops(block, tokens, kept_tokens(tokens, schedule.ratio(progress, block)), point=point)
    return 1.0 - spent / full if full else 0.0


def summarize(run: PruneRun, steps: int, planned: float, finished: bool) -> str:
    """One line: tokens kept, attention FLOPs saved and planned to be, blocks, steps and model calls."""
    total = run.total()
    blocks = {name for (_, name) in run.tallies}
    pruned = {name for (_, name), spent in run.tallies.items() if spent.pruned_calls}
    kept = total.kept / total.tokens if total.tokens else 1.0
    saved = 1.0 - total.flops / total.flops_full if total.flops_full else 0.0
    calls = max((spent.calls for spent in run.tallies.values()), default=0)
    ended = "" if finished else " (interrupted)"
    return (
        f"AT-EDM: kept {kept:.1%} of tokens, saved {saved:.1%} of attention block FLOPs "
        f"(planned {planned:.1%}), "
        f"pruned {len(pruned)} of {len(blocks)} attention blocks, {steps} steps, "
        f"{calls} model calls per condition{ended}"
    )


def explain_nothing_pruned(run: PruneRun) -> str:
    """Why a run that finished pruned nothing, and what to change."""
    schedule = run.method.schedule
    blocks = run.method.structure.blocks
    if schedule.prune_ratio == 0:
        return "prune_ratio is 0. Raise it to drop tokens."
    if not run.tallies:
        return "no attention block came to AT-EDM. Another node runs them itself; put AT-EDM Apply before it."
    reached = [schedule.ratio(progress, block) for progress in run.seen_progress() for block in blocks]
    if not any(reached):
        return (
            f"early_percent is {schedule.early_percent:g} and this run never got past it. "
            "Lower early_percent, or spare fewer blocks early."
        )
    return (
        f"prune_ratio {schedule.prune_ratio:g} rounds to no token on grids this small. "
        "Raise it, or make the picture larger."
    )
