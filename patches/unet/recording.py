"""What stays of a run when it has ended: its record, and the token maps if somebody asked for them."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...atedm_core.unet.flops import unet_flops
from ...atedm_core.unet.schedule import DSAPSchedule
from ...atedm_core.unet.settings import PruneSettings
from ...atedm_core.unet.structure import LEVEL_NAMES, AttentionBlock
from ...report.record import PlaceRecord, RunRecord, Tally, Wording, shown_settings
from ..host.kept_counts import note_on_samples
from ..host.run_scope import Asked
from .planned import planned_otherwise
from .run import PruneRun
from .token_maps import TokenMaps

_WORDING = Wording("AT-EDM", place="block", kept="kept", part="attention block", unpruned="prune_ratio 0")


def record_of(run: PruneRun, asked: Asked, seconds: float, planned: float) -> RunRecord:
    """The record of a run that has ended, before it forgets what it did.

    The sampling loop took `seconds`; `planned` is `summary.planned_saving`.
    """
    structure, samples, latent = run.method.structure, asked.noise.shape[0], asked.latent
    # Where tokens were dropped, which is not always where they were asked to be.
    points = [f"{point}: {count} block calls" for point, count in sorted(run.points.items())]
    return RunRecord(
        wording=_WORDING,
        model=structure,
        settings=_settings(run.method.schedule, run.method.settings),
        steps=asked.steps,
        seconds=seconds,
        samples=samples,
        conditions=len({uuid for uuid, _ in run.tallies}),
        latent=latent,
        places=tuple(_place(run, block, structure.grid(block.level, latent)) for block in structure.blocks),
        other_flops=_other_flops(run, latent),
        planned=planned,
        work=asked.work,
        maps_asked=run.maps is not None,
        details=(("dropped", ", ".join(points)),) if points else (),
        notes=_notes(samples, run.maps, planned_otherwise(run.method.schedule.prune_ratio, latent)),
    )


def _place(run: PruneRun, block: AttentionBlock, grid: tuple[int, int]) -> PlaceRecord:
    timeline = tuple(sorted((at, spent) for (at, name), spent in run.timeline.items() if name == block.name))
    whole_calls = sum(spent.calls - spent.pruned_calls for _, spent in timeline)
    return PlaceRecord(
        name=block.name,
        group=f"{LEVEL_NAMES[block.level]} level",
        grid=grid,
        timeline=timeline,
        whole_because=_why_whole(run, block, timeline),
        kept_share=None if run.maps is None else run.maps.shares(block, whole_calls),
    )


def _why_whole(run: PruneRun, block: AttentionBlock, timeline: tuple[tuple[float, Tally], ...]) -> str:
    schedule = run.method.schedule
    if schedule.prune_ratio == 0:
        return "prune_ratio is 0"
    if not timeline:
        return "run by another node, or not at all"
    if schedule.ratio(1.0, block) == 0:
        late = block.name in {share.name for share in schedule.block_shares}
        return "spared: its errors cost most" if late else f"{LEVEL_NAMES[block.level]}_level is 0"
    whole = [at for at, spent in timeline if spent.pruned_calls < spent.calls]
    reasons = []
    if any(at < schedule.early_percent and schedule.ratio(at, block) == 0 for at in whole):
        reasons.append(f"spared in the first {schedule.early_percent:.0%}")
    if block.name in run.left_alone:
        reasons.append(f"{run.left_alone[block.name]} replaces its layers")
    elif block.name in run.not_worth_it:
        reasons.append("choosing tokens would take most of what that saves")
    elif any(schedule.ratio(at, block) > 0 for at in whole):
        reasons.append("the ratio rounds to no token")
    return ", ".join(reasons)


def _settings(schedule: DSAPSchedule, settings: PruneSettings) -> tuple[tuple[str, str], ...]:
    names = ("prune_ratio", "early_percent", "early_ratio", "early_blocks", "ramp")
    scales = zip(LEVEL_NAMES, schedule.level_scales or (), strict=False)
    shown: dict[str, object] = {name: getattr(schedule, name) for name in names}
    shown |= {f"{name}_level": scale for name, scale in scales if scale != 1.0}
    return shown_settings(shown | vars(settings))


def _other_flops(run: PruneRun, latent: tuple[int, int]) -> int:
    """Convolutions and embeddings, for as many model inputs as the first attention block saw."""
    structure = run.method.structure
    first = structure.blocks[0]
    tokens = sum(spent.tokens for (_, name), spent in run.timeline.items() if name == first.name)
    inputs = tokens / prod(structure.grid(first.level, latent))
    return round(inputs * unet_flops(replace(structure, blocks=()), latent))


def _notes(samples: int, maps: TokenMaps | None, otherwise: str) -> tuple[str, ...]:
    first = (otherwise,) if otherwise else ()
    if maps is None:
        return first
    parts = (f"{maps.parts} pruned calls on parts of the picture are not in the token maps",) if maps.parts else ()
    return (*first, *note_on_samples(samples), *parts)
