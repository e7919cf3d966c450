"""What stays of a run when it has ended: its record, and the token maps if somebody asked for them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...atedm_core.unet.flops import unet_flops
from ...atedm_core.unet.schedule import DSAPSchedule
from ...atedm_core.unet.structure import LEVEL_NAMES, AttentionBlock, UNetStructure
from ...report.record import PlaceRecord, RunRecord, Tally, Wording, shown_settings
from ..host.kept_counts import KeptCounts, note_on_samples
from .run import PruneEvent, PruneRun

_WORDING = Wording("AT-EDM", place="block", kept="kept", part="attention block", unpruned="prune_ratio 0")


@dataclass
class MapRecorder:
    """Counts in how many model calls each block kept each token.

    Only model calls on the whole picture are counted: a call on a part of it has a token grid of its own.
    """

    structure: UNetStructure
    latent: tuple[int, int]
    _counts: KeptCounts = field(default_factory=KeptCounts)
    _parts: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __deepcopy__(self, memo: dict[int, Any]) -> MapRecorder:
        """Itself: nodes that copy the options deeply for a model call of their own are still in this run."""
        return self

    def pruned(self, event: PruneEvent) -> None:
        """Count what one block kept in one model call."""
        if event.grid != self.structure.grid(event.block.level, self.latent):
            with self._lock:
                self._parts += 1
            return
        self._counts.add(event.block.name, event.subset.keep_index, event.subset.total, len(event.uuids))

    def finished(self, run: PruneRun, steps: int) -> None:
        """Nothing to do: the run's record asks for the maps."""

    def shares(self, block: AttentionBlock, spent: Tally, grid: tuple[int, int]) -> Tensor | None:
        """`[S, height, width]` share of calls in which each token was computed; `None` where nothing was pruned."""
        # in calls that pruned nothing every token was computed; which of them ran on parts of the picture is not known
        whole = spent.calls - spent.pruned_calls if self._parts == 0 else 0
        return self._counts.shares(block.name, whole, grid)

    @property
    def parts(self) -> int:
        """Pruned calls that ran on a part of the picture."""
        return self._parts


def record_of(
    run: PruneRun,
    steps: int,
    seconds: float,
    samples: int,
    latent: tuple[int, int],
    planned: float,
    work: tuple[str, ...],
    maps: MapRecorder | None,
) -> RunRecord:
    """The record of a run that has ended, before it forgets what it did.

    Args:
        run: that has ended.
        steps: of the sampler.
        seconds: the sampling loop took.
        samples: pictures in the batch.
        latent: (height, width) of the latent.
        planned: share of attention block FLOPs that the schedule was expected to save.
        work: from `sampling.work_of`.
        maps: what was recorded, if anything.
    """
    structure = run.method.structure
    places = tuple(_place(run, block, latent, maps) for block in structure.blocks)
    return RunRecord(
        wording=_WORDING,
        model=structure,
        settings=_settings(run),
        steps=steps,
        seconds=seconds,
        samples=samples,
        conditions=len({uuid for uuid, _ in run.tallies}),
        latent=latent,
        places=places,
        other_flops=_other_flops(run, latent),
        planned=planned,
        work=work,
        maps_asked=maps is not None,
        notes=_notes(samples, maps),
    )


def _place(run: PruneRun, block: AttentionBlock, latent: tuple[int, int], maps: MapRecorder | None) -> PlaceRecord:
    grid = run.method.structure.grid(block.level, latent)
    timeline = tuple(sorted((at, spent) for (at, name), spent in run.timeline.items() if name == block.name))
    spent = sum((tally for _, tally in timeline), Tally())
    whole = [at for at, tally in timeline if tally.pruned_calls < tally.calls]
    return PlaceRecord(
        name=block.name,
        group=f"{LEVEL_NAMES[block.level]} level",
        grid=grid,
        timeline=timeline,
        whole_because=_why_whole(run.method.schedule, block, whole, bool(timeline)),
        kept_share=None if maps is None else maps.shares(block, spent, grid),
    )


def _why_whole(schedule: DSAPSchedule, block: AttentionBlock, whole: Iterable[float], seen: bool) -> str:
    if schedule.prune_ratio == 0:
        return "prune_ratio is 0"
    if not seen:
        return "run by another node, or not at all"
    if schedule.ratio(1.0, block) == 0:
        return f"{LEVEL_NAMES[block.level]}_level is 0"
    reasons = []
    if any(at < schedule.early_percent and schedule.ratio(at, block) == 0 for at in whole):
        reasons.append(f"spared in the first {schedule.early_percent:.0%}")
    if any(schedule.ratio(at, block) > 0 for at in whole):
        reasons.append("the ratio rounds to no token")
    return ", ".join(reasons)


def _settings(run: PruneRun) -> tuple[tuple[str, str], ...]:
    schedule, settings = run.method.schedule, run.method.settings
    shown: dict[str, object] = {"prune_ratio": schedule.prune_ratio, "early_percent": schedule.early_percent}
    shown |= {"early_ratio": schedule.early_ratio, "early_blocks": schedule.early_blocks, "ramp": schedule.ramp}
    scales = zip(LEVEL_NAMES, schedule.level_scales, strict=False)
    shown |= {f"{name}_level": scale for name, scale in scales if scale != 1.0}
    shown |= vars(settings)
    return shown_settings(shown)


def _other_flops(run: PruneRun, latent: tuple[int, int]) -> int:
    """Convolutions and embeddings, for as many model inputs as the first attention block saw."""
    structure = run.method.structure
    first = structure.blocks[0]
    height, width = structure.grid(first.level, latent)
    inputs = sum(spent.tokens for (_, name), spent in run.timeline.items() if name == first.name) / (height * width)
    without = type(structure)((), structure.other_macs, structure.fixed_macs)
    return round(inputs * unet_flops(without, latent))


def _notes(samples: int, maps: MapRecorder | None) -> tuple[str, ...]:
    if maps is None:
        return ()
    parts = (f"{maps.parts} pruned calls on parts of the picture are not in the token maps",) if maps.parts else ()
    return (*note_on_samples(samples), *parts)
