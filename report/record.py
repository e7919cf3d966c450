"""What a run did, as plain data: which tokens were computed where, what that cost, and how long it took.

A place is whatever has tokens of its own to compute: an attention block of a U-Net, or a step of a run in which all of
a transformer's blocks compute the same ones. What only one method says stands in its `Wording`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from torch import Tensor

from .words import Said

Groups = tuple[tuple[str, tuple["PlaceRecord", ...]], ...]
"""Places by the name of their group."""


@dataclass(frozen=True)
class Wording:
    """How a method speaks of itself.

    Attributes:
        place: one of its places: `block`, `step`.
        kept: what happens to the tokens that are not left out: `kept`, `computed`.
        part: what its places make up, where that is less than the model: `attention block`; otherwise empty.
        unpruned: how to run the same without pruning: `prune_ratio 0`.
        in_sequence: its places come one after the other, each call of the model being at one of them.
    """

    method: str
    place: str
    kept: str
    part: str
    unpruned: str
    in_sequence: bool = False


@dataclass(frozen=True)
class Tally:
    """Model calls, tokens and FLOPs, added up. Tokens and FLOPs are summed over samples.

    Attributes:
        calls: how often a place was run for one condition; `pruned_calls` of them did not compute all tokens.
        tokens: on the full grid; `kept` of them were computed.
        flops_full: what all tokens would have cost; `flops` were spent.
    """

    calls: int = 0
    pruned_calls: int = 0
    tokens: int = 0
    kept: int = 0
    flops_full: int = 0
    flops: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def kept_share(self) -> float:
        """Share of tokens that were computed, 0 to 1; 1 where nothing was run."""
        return self.kept / self.tokens if self.tokens else 1.0

    @property
    def saved_share(self) -> float:
        """Share of FLOPs that were saved, 0 to 1."""
        return 1.0 - self.flops / self.flops_full if self.flops_full else 0.0


@dataclass(frozen=True)
class PlaceRecord:
    """One place of the model.

    Attributes:
        name: as the host counts, `input 4`, or `step 9`; it ends with a number.
        group: places of one group share a grid: `half level`.
        grid: (height, width) in tokens, for the whole picture.
        timeline: what was spent, by progress (0 to 1, ascending from most to least noise).
        whole_because: why it computed all tokens, in all or some calls; empty where it never did.
        kept_share: `[S, height, width]` floating-point on the CPU, for the first S pictures of the batch: the share of
            model calls in which each token was computed. `None` where nobody asked for it or nothing was pruned.
    """

    name: str
    group: str
    grid: tuple[int, int]
    timeline: tuple[tuple[float, Tally], ...] = ()
    whole_because: str = ""
    kept_share: Tensor | None = None

    @property
    def size(self) -> str:
        """The grid as people write it, width first."""
        return f"{self.grid[1]} x {self.grid[0]}"

    @property
    def spent(self) -> Tally:
        """Over the run."""
        return sum((tally for _, tally in self.timeline), Tally())


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the model that the sampler asked for.

    Attributes:
        step: of the sampler, from 0.
        progress: 0 to 1, from most to least noise.
        real: the model was asked; otherwise its answer was forecast.
        predicted: error expected of a forecast, over the prediction's size; `None` where nothing was known.
        measured: what it was, where the model was asked too.
    """

    step: int
    progress: float
    real: bool
    predicted: float | None = None
    measured: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """One sampling run.

    Attributes:
        model: what the model is made of; equal for models that do the same work.
        settings: what it was set to, as (name, value) for people.
        seconds: of the sampling loop, without loading the model before it.
        samples: pictures in the batch.
        conditions: model inputs that each step was computed for (2 with guidance).
        latent: (height, width).
        places: in the order they run; empty for a method that leaves tokens alone.
        other_flops: of everything outside the places, over the run, all samples.
        planned: share of the places' FLOPs that the settings were expected to save; `None` where nothing was.
        work: what else decides how long a step takes: sampler, guidance, other packs' additions.
        maps_asked: whether `kept_share` was recorded.
        details: what else there is in numbers, as (name, text) for people.
        notes: what else to know, as sentences.
        evaluations: in the order they came, where some could be forecast; otherwise empty, and all were real.
        step_seconds: of each step, where they were timed.
        reason: why nothing was left out, where nothing was.
    """

    wording: Wording
    model: object
    settings: tuple[tuple[str, str], ...]
    steps: int
    seconds: float
    samples: int
    conditions: int
    latent: tuple[int, int]
    places: tuple[PlaceRecord, ...]
    other_flops: int = 0
    planned: float | None = None
    work: tuple[str, ...] = ()
    maps_asked: bool = False
    details: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    step_seconds: tuple[float, ...] = ()
    reason: Said | None = None

    @property
    def spent(self) -> Tally:
        """In all places, over the run."""
        return sum((place.spent for place in self.places), Tally())

    @property
    def calls(self) -> int:
        """Model calls, each counted once for every condition in it."""
        counts = [place.spent.calls for place in self.places]
        return sum(counts) if self.wording.in_sequence else max(counts, default=0)

    @property
    def pruned(self) -> bool:
        """Whether anything was left out at all."""
        return self.spent.pruned_calls > 0 or self.real_share < 1.0

    @property
    def real_share(self) -> float:
        """Share of evaluations for which the model was asked, 0 to 1."""
        return sum(one.real for one in self.evaluations) / len(self.evaluations) if self.evaluations else 1.0

    @property
    def forecast_errors(self) -> list[float]:
        """By how much forecasts were off, over the prediction's size, where the truth came to be known."""
        return [one.measured for one in self.evaluations if one.measured is not None]

    @property
    def seconds_per_step(self) -> float:
        """On average over the run."""
        return self.seconds / self.steps if self.steps else 0.0

    @property
    def model_saved_share(self) -> float:
        """Share of the FLOPs of the model's real evaluations that were saved by leaving out tokens, 0 to 1."""
        spent = self.spent
        full = spent.flops_full + self.other_flops
        return (spent.flops_full - spent.flops) / full if full else 0.0

    @property
    def saved_share(self) -> float:
        """Share of the run's FLOPs that were saved by everything together, 0 to 1."""
        return 1.0 - (1.0 - self.model_saved_share) * self.real_share

    @property
    def ideal_speed_up(self) -> float:
        """How many times fewer FLOPs the run took."""
        return 1.0 / max(1.0 - self.saved_share, 1e-6)

    def groups(self) -> Groups:
        """Places by group, groups with the finer grid first, places in the order they run."""
        ordered = sorted(self.places, key=lambda place: (-place.grid[0] * place.grid[1], place.group))
        return tuple((name, tuple(places)) for name, places in groupby(ordered, key=lambda place: place.group))

    def rows(self) -> Groups:
        """Groups as a table shows them: places in sequence that did alike are one row, `step 9 to 28`."""
        groups = self.groups()
        return tuple((name, _runs_of_alike(places)) for name, places in groups) if self.wording.in_sequence else groups

    def is_like(self, other: RunRecord) -> bool:
        """Whether the two computed the same thing but for what was left out, so that their times can be compared."""
        work, others = ((run.model, run.latent, run.samples, run.steps, run.work) for run in (self, other))
        return work == others


def _runs_of_alike(places: tuple[PlaceRecord, ...]) -> tuple[PlaceRecord, ...]:
    def what(place: PlaceRecord) -> tuple[object, ...]:
        spent = place.spent
        pruned = spent.pruned_calls / spent.calls if spent.calls else None
        return place.whole_because, pruned, round(spent.kept_share, 4), round(spent.saved_share, 4)

    found = []
    for _, alike in groupby(places, key=what):
        first, *others = alike
        timeline = sum((place.timeline for place in others), first.timeline)
        name = f"{first.name} to {others[-1].name.rsplit(' ', 1)[-1]}" if others else first.name
        found.append(replace(first, name=name, timeline=timeline, kept_share=None))
    return tuple(found)


def with_forecasts(record: RunRecord, forecasts: RunRecord) -> RunRecord:
    """One record of a run in which two nodes each left something out: tokens, and whole evaluations."""
    own, other = record.wording, forecasts.wording
    wording = replace(own, method=f"{own.method} and {other.method}", unpruned=f"{own.unpruned} and {other.unpruned}")
    return replace(
        record,
        wording=wording,
        settings=record.settings + forecasts.settings,
        notes=record.notes + forecasts.notes,
        evaluations=forecasts.evaluations,
        reason=record.reason or forecasts.reason,
    )


def shown_settings(settings: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """What a method was set to, as a record holds it."""
    return tuple((name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in settings.items())


def over_progress(places: tuple[PlaceRecord, ...]) -> tuple[tuple[float, Tally], ...]:
    """What several places spent together, by progress, ascending."""
    found: dict[float, Tally] = {}
    for place in places:
        for progress, tally in place.timeline:
            found[progress] = found.get(progress, Tally()) + tally
    return tuple(sorted(found.items()))
