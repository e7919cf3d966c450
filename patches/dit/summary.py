"""What a run under CAT Pruning did, in one line for the log."""

from __future__ import annotations

from .run import CATRun


def summarize(run: CATRun, finished: bool) -> str:
    """Calls pruned, tokens kept, FLOPs saved, memory used, and what was left alone."""
    tally = run.tally
    keep = run.method.selection.kept(run.tokens)
    parts = [
        f"CAT Pruning: pruned {tally.pruned_calls} of {tally.calls} model calls to {keep / run.tokens:.1%} of "
        f"{run.tokens} image tokens",
        f"saved {tally.spent.saved_share:.1%} of the transformer's FLOPs",
        f"{run.steps} steps",
        f"{tally.most_bytes / 2**30:.2f} GiB of keys and values kept",
    ]
    parts += [f"{count} calls left as they are because {reason}" for reason, count in tally.passed.items()]
    if run.disabled is not None:
        parts.append(f"stopped pruning because {run.disabled}")
    return ", ".join(parts) + ("" if finished else " (interrupted)")
