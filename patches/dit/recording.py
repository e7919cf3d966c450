"""What stays of a run under CAT Pruning when it has ended: a line for the log, and a record step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ...atedm_core.dit.choosing_flops import run_flops
from ...report.record import PlaceRecord, RunRecord, Tally, Wording, shown_settings
from ...report.words import Said, reason
from ..host.kept_counts import note_on_samples
from ..host.progress import progress_of
from .run import CATRun

_WORDING = Wording("CAT Pruning", place="step", kept="computed", part="", unpruned="keep_ratio 1", in_sequence=True)
_GROUP = "steps"
_NOBODY_ASKED = "the model was not asked: another node answered, or the sampler did without"


def record_of(
    run: CATRun,
    seconds: float,
    percent_to_sigma: Callable[[float], float],
    work: tuple[str, ...],
) -> RunRecord:
    """The record of a run that has ended, before it forgets what it did.

    Args:
        run: that has ended.
        seconds: the sampling loop took.
        percent_to_sigma: of the model's sampling.
        work: from `sampling.work_of`.
    """
    maps = run.maps
    return RunRecord(
        wording=_WORDING,
        model=(run.method.family.name, run.structure),
        settings=shown_settings(_inputs(run)),
        steps=run.steps,
        seconds=seconds,
        samples=run.latent[0],
        conditions=len(run.tally.conditions),
        latent=(run.latent[-2], run.latent[-1]),
        places=() if run.nothing_because is not None else _places(run, percent_to_sigma),
        planned=_planned_saving(run) if run.tally.timeline else None,
        work=work,
        maps_asked=maps is not None,
        details=_details(run) if run.tally.timeline else (),
        notes=_notes(run),
    )


def summarize(run: CATRun, finished: bool) -> str:
    """What was done, in one line for the log."""
    tally = run.tally
    keep = run.method.selection.kept(run.tokens)
    parts = [
        f"CAT Pruning: pruned {tally.pruned_calls} of {tally.calls} model calls to {keep / run.tokens:.1%} of "
        f"{run.tokens} image tokens",
        f"saved {tally.spent.saved_share:.1%} of the transformer's FLOPs",
        f"{run.steps} steps",
        f"{tally.most_bytes / 2**30:.2f} GiB of keys and values kept",
        *_exceptions(run),
    ]
    if run.disabled is not None:
        parts.append(f"stopped pruning because {run.disabled}")
    return ", ".join(parts) + ("" if finished else " (interrupted)")


def explain_nothing_pruned(run: CATRun) -> Said:
    """Why a run that finished pruned nothing, and what to change."""
    if run.method.selection.keep_ratio >= 1.0:
        return reason("keep_ratio_off")
    schedule = run.method.schedule
    if schedule.pruned_steps(run.steps) == 0:
        return reason("all_full", steps=run.steps, warmup=schedule.warmup_steps(run.steps))
    because = run.nothing_because or run.disabled or ", ".join(run.tally.passed)
    return reason("other", text=because) if because else reason("not_asked")


def _exceptions(run: CATRun) -> list[str]:
    found = [f"{count} calls left as they are because {why}" for why, count in run.tally.passed.items()]
    if run.tally.answered_calls:
        found.append(f"{run.tally.answered_calls} calls answered by another node")
    return found


def _inputs(run: CATRun) -> dict[str, object]:
    """What the node was given."""
    given = vars(run.method.selection) | vars(run.method.schedule)
    return {name: value for name, value in given.items() if name != "settled_steps"}


def _places(run: CATRun, percent_to_sigma: Callable[[float], float]) -> tuple[PlaceRecord, ...]:
    timelines: list[list[tuple[float, Tally]]] = [[] for _ in range(run.steps)]
    for sigma, spent in sorted(run.tally.timeline.items(), reverse=True):
        timelines[run.step_of(sigma)].append((progress_of(sigma, percent_to_sigma, 0.0), spent))
    return tuple(_place(run, step, tuple(timeline)) for step, timeline in enumerate(timelines))


def _place(run: CATRun, step: int, timeline: tuple[tuple[float, Tally], ...]) -> PlaceRecord:
    spent = sum((tally for _, tally in timeline), Tally())
    whole = spent.calls - spent.pruned_calls
    because = ", ".join(run.tally.whole_because.get(step, ())) if timeline else _NOBODY_ASKED
    shares = None if run.maps is None else run.maps.shares(step, whole, run.grid)
    # mostly 0 or 1, and there is a map for every step: half the bytes are exact enough
    kept_share = None if shares is None else shares.half()
    return PlaceRecord(f"step {step + 1}", _GROUP, run.grid, timeline, because, kept_share)


def _planned_saving(run: CATRun) -> float:
    """The share of FLOPs that the settings save where each step is one call and nothing stands against pruning it."""
    text = round(run.tally.text_tokens / run.tally.samples)
    method = run.method
    full = run_flops(run.structure, run.tokens, text, run.steps)
    return 1.0 - run_flops(run.structure, run.tokens, text, run.steps, method.selection, method.schedule) / full


def _details(run: CATRun) -> tuple[tuple[str, str], ...]:
    schedule = run.method.schedule
    reasons = Counter(why for step in range(run.steps) if (why := schedule.why_full(step, run.steps)) is not None)
    keep = run.method.selection.kept(run.tokens)
    pruned = f"{schedule.pruned_steps(run.steps)} of {run.steps} to be pruned to {keep} of {run.tokens} tokens"
    planned = ", ".join([pruned, *(f"{count} in full {why}" for why, count in reasons.items())])
    held = f"{run.tally.most_bytes / 2**20:.4g} MiB of keys and values held at most, freed at the end"
    return (("steps", planned), ("memory", held))


def _notes(run: CATRun) -> tuple[str, ...]:
    notes = [f"nothing was pruned: {run.nothing_because}"] if run.nothing_because is not None else []
    notes += _exceptions(run)
    if run.disabled is not None:
        notes.append(f"from some step on nothing was pruned, because {run.disabled}")
    return (*notes, *(note_on_samples(run.latent[0]) if run.maps is not None else ()))
