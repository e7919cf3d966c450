"""What a run did, in words: one line for the log, and why nothing was pruned if nothing was."""

from __future__ import annotations

from .run import PruneRun


def summarize(run: PruneRun, steps: int, finished: bool) -> str:
    """One line: tokens kept, attention FLOPs saved, blocks, steps and model calls."""
    total = run.total()
    blocks = {name for (_, name) in run.tallies}
    pruned = {name for (_, name), spent in run.tallies.items() if spent.pruned_calls}
    kept = total.kept / total.tokens if total.tokens else 1.0
    saved = 1.0 - total.flops / total.flops_full if total.flops_full else 0.0
    calls = max((spent.calls for spent in run.tallies.values()), default=0)
    ended = "" if finished else " (interrupted)"
    return (
        f"AT-EDM: kept {kept:.1%} of tokens, saved {saved:.1%} of attention block FLOPs, "
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
