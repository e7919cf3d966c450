"""A wanted saving of FLOPs, solved for the prune ratio that gives it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .flops import block_flops, unet_flops
from .pruned_cost import kept_in_block, mean_pruned_flops
from .schedule import DEFAULT_SCHEDULE, MAX_RATIO, DSAPSchedule
from .settings import DEFAULT_SETTINGS, PruneSettings
from .structure import LEVEL_NAMES, AttentionBlock, UNetStructure

_RAMP_SAMPLES = 64
_HALVINGS = 40


@dataclass(frozen=True)
class LevelCost:
    """What the attention blocks at one resolution level cost, on average over a run; `grid` is (height, width)."""

    name: str
    grid: tuple[int, int]
    blocks: int
    layers: int
    flops_full: float
    flops: float


@dataclass(frozen=True)
class Budget:
    """What a schedule costs on a model at a size, on average over a run's steps, for one sample.

    `flops_full` are the unpruned model's, `flops` the pruned one's, choosing tokens and filling in included, `levels`
    those of the attention blocks alone.
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

    Steps are taken to be spread evenly over progress. Exact for a step schedule, midpoint rule over a ramp.
    """
    early = schedule.early_percent
    samples = 1 if schedule.ramp == "step" else _RAMP_SAMPLES
    points = [(early * (i + 0.5) / samples, early / samples) for i in range(samples)] if early > 0 else []
    return [*points, (1.0, 1.0 - early)]


def budget_of(
    structure: UNetStructure,
    latent: tuple[int, int],
    schedule: DSAPSchedule,
    settings: PruneSettings = DEFAULT_SETTINGS,
) -> Budget:
    """What a schedule costs, level by level; arguments are those of `solve_budget`."""
    schedule = schedule.for_model(structure)
    passes = progress_weights(schedule)

    def cost(level: int) -> LevelCost:
        blocks = [block for block in structure.blocks if block.level == level]
        grid = structure.grid(level, latent)
        tokens = grid[0] * grid[1]

        def pruned(block: AttentionBlock, progress: float) -> float:
            kept = kept_in_block(schedule, settings, block, tokens, progress)
            return mean_pruned_flops(settings, block, tokens, kept)

        spent = sum(weight * pruned(block, at) for block in blocks for at, weight in passes)
        full = sum(block_flops(block, tokens) for block in blocks)
        return LevelCost(LEVEL_NAMES[level], grid, len(blocks), sum(block.layers for block in blocks), full, spent)

    levels = tuple(cost(level) for level in sorted({block.level for block in structure.blocks}))
    full = unet_flops(structure, latent)
    return Budget(schedule, full, full - sum(level.flops_full - level.flops for level in levels), levels)


def share_left(structure: UNetStructure, latent: tuple[int, int], ratio: float) -> float:
    """The share of an evaluation's FLOPs that the defaults leave at a prune ratio, on a latent of (height, width)."""
    return 1.0 - budget_of(structure, latent, replace(DEFAULT_SCHEDULE, prune_ratio=ratio)).saving


def solve_budget(
    structure: UNetStructure,
    latent: tuple[int, int],
    saving: float,
    schedule: DSAPSchedule = DEFAULT_SCHEDULE,
    settings: PruneSettings = DEFAULT_SETTINGS,
) -> Budget:
    """The smallest prune ratio with which a schedule saves the wanted share of a model's FLOPs, exact to a token.

    The share is 0 to less than 1, for an ideal speed-up of x it is 1 - 1/x; a ValueError says where it is outside of
    that, or how much the schedule can reach at most. `latent` is (height, width) of the latent; the settings say where
    tokens are dropped and what choosing them costs.
    """
    if not 0.0 <= saving < 1.0:
        raise ValueError(f"saving is {saving}: give a share of FLOPs, 0 or more and less than 1")

    def at(ratio: float) -> Budget:
        return budget_of(structure, latent, replace(schedule, prune_ratio=ratio), settings)

    most = at(MAX_RATIO)
    if most.saving < saving:
        reached = f"{max(0.0, most.saving):.1%} can be saved (an ideal speed-up of {max(1.0, most.speed_up):.2f}x)"
        cheaper = ", or choose ranking 'redundancy'" if settings.ranks_by_attention else ""
        raise ValueError(
            f"saving is {saving:.1%}, but with this schedule at most {reached} at this size: the rest of the model is "
            "not pruned, and choosing tokens takes its share. Ask for less, prune earlier in the block, or spare fewer "
            f"blocks and levels{cheaper}."
        )
    low, high = 0.0, MAX_RATIO
    if at(low).saving >= saving:
        return at(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle).saving >= saving else (middle, high)
    return at(high)
