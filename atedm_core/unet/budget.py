"""A wanted saving of FLOPs, solved for the prune ratio that gives it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..tokens import kept_tokens
from .flops import block_flops, unet_flops
from .schedule import DEFAULT_SCHEDULE, MAX_RATIO, DSAPSchedule
from .settings import DEFAULT_SETTINGS, PruneSettings
from .structure import LEVEL_NAMES, UNetStructure

_RAMP_SAMPLES = 64
_HALVINGS = 40


@dataclass(frozen=True)
class LevelCost:
    """One resolution level: what its attention blocks cost, on average over a run."""

    name: str
    grid: tuple[int, int]
    blocks: int
    layers: int
    flops_full: float
    flops: float


@dataclass(frozen=True)
class Budget:
    """What a schedule costs on a model at a size, on average over a run's steps, for one sample.

    Attributes:
        schedule: with the ratio that was solved for.
        flops_full: of the unpruned model.
        flops: of the pruned one.
        levels: of the attention blocks, by resolution.
    """

    schedule: DSAPSchedule
    flops_full: int
    flops: float
    levels: tuple[LevelCost, ...]

    @property
    def saving(self) -> float:
        """Share of FLOPs saved, 0 to 1."""
        return 1.0 - self.flops / self.flops_full

    @property
    def speed_up(self) -> float:
        """Ideal speed-up: how many times fewer FLOPs."""
        return self.flops_full / self.flops


def progress_weights(schedule: DSAPSchedule) -> list[tuple[float, float]]:
    """(progress, weight) pairs over which a run is averaged; the weights sum to 1.

    Steps are taken to be spread evenly over progress, as the schedulers that space timesteps evenly spread them.
    Exact for a step schedule, midpoint rule with 64 points over a ramp.
    """
    early = schedule.early_percent
    samples = 1 if schedule.ramp == "step" else _RAMP_SAMPLES
    points = [(early * (i + 0.5) / samples, early / samples) for i in range(samples)] if early > 0 else []
    return [*points, (1.0, 1.0 - early)]


def _passes(schedule: DSAPSchedule, settings: PruneSettings) -> list[tuple[float, bool, float]]:
    """(progress, whether attention ranks, weight) of the passes that a run averages to; the weights sum to 1."""
    fresh = settings.fresh_share
    kinds = [(ranks, share) for ranks, share in ((True, fresh), (False, 1.0 - fresh)) if share > 0]
    return [(at, ranks, weight * share) for at, weight in progress_weights(schedule) for ranks, share in kinds]


def budget_of(
    structure: UNetStructure,
    latent: tuple[int, int],
    schedule: DSAPSchedule,
    settings: PruneSettings = DEFAULT_SETTINGS,
) -> Budget:
    """What a schedule costs, level by level; arguments are those of `solve_budget`."""
    passes = _passes(schedule, settings)

    def cost(level: int) -> LevelCost:
        blocks = [block for block in structure.blocks if block.level == level]
        grid = structure.grid(level, latent)
        tokens = grid[0] * grid[1]
        spent = sum(
            weight
            * block_flops(
                block,
                tokens,
                kept_tokens(tokens, schedule.ratio(progress, block)),
                point=settings.point(block.layers, remembered=not ranks),
            )
            for block in blocks
            for progress, ranks, weight in passes
        )
        full = sum(block_flops(block, tokens) for block in blocks)
        return LevelCost(LEVEL_NAMES[level], grid, len(blocks), sum(block.layers for block in blocks), full, spent)

    levels = tuple(cost(level) for level in sorted({block.level for block in structure.blocks}))
    full = unet_flops(structure, latent)
    return Budget(schedule, full, full - sum(level.flops_full - level.flops for level in levels), levels)


def solve_budget(
    structure: UNetStructure,
    latent: tuple[int, int],
    saving: float,
    schedule: DSAPSchedule = DEFAULT_SCHEDULE,
    settings: PruneSettings = DEFAULT_SETTINGS,
) -> Budget:
    """The smallest prune ratio that saves the wanted share of a whole model's FLOPs, exact to a token.

    Args:
        structure: of the model.
        latent: (height, width) of the latent.
        saving: wanted share of FLOPs to save, 0 to less than 1. For an ideal speed-up of x it is 1 - 1/x.
        schedule: whose ratio is solved for; by default all steps and blocks are pruned alike.
        settings: where tokens are dropped, and how often attention ranks them.

    Raises:
        ValueError: the saving is outside its range, or more than the schedule can reach; the message names the most.
    """
    if not 0.0 <= saving < 1.0:
        raise ValueError(f"saving is {saving}: give a share of FLOPs, 0 or more and less than 1")

    def at(ratio: float) -> Budget:
        return budget_of(structure, latent, replace(schedule, prune_ratio=ratio), settings)

    most = at(MAX_RATIO)
    if most.saving < saving:
        raise ValueError(
            f"saving is {saving:.1%}, but with this schedule at most {most.saving:.1%} can be saved (an ideal speed-up "
            f"of {most.speed_up:.2f}x) at this size: the rest of the model is not pruned. Ask for less, prune earlier "
            "in the block, spare fewer blocks, or make the picture larger."
        )
    if at(0.0).saving >= saving:
        return at(0.0)
    low, high = 0.0, MAX_RATIO
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle).saving >= saving else (middle, high)
    return at(high)
