"""A wanted saving of FLOPs, solved for the prune ratio that gives it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..tokens import kept_tokens
from .flops import CONTEXT_TOKENS, PrunePoint, block_flops, prune_point, unet_flops
from .schedule import MAX_RATIO, DSAPSchedule
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


def average_flops(
    structure: UNetStructure,
    latent: tuple[int, int],
    schedule: DSAPSchedule,
    *,
    point: PrunePoint = "after first layer",
    context_tokens: int = CONTEXT_TOKENS,
) -> float:
    """FLOPs of one forward pass for one sample, averaged over a run."""
    total = 0.0
    for progress, weight in progress_weights(schedule):
        flops = unet_flops(
            structure,
            latent,
            lambda block, at=progress: schedule.ratio(at, block),  # type: ignore[misc]
            context_tokens=context_tokens,
            point=point,
        )
        total += weight * flops
    return total


def solve_budget(
    structure: UNetStructure,
    latent: tuple[int, int],
    saving: float,
    schedule: DSAPSchedule | None = None,
    *,
    point: PrunePoint = "after first layer",
    context_tokens: int = CONTEXT_TOKENS,
) -> Budget:
    """The smallest prune ratio that saves the wanted share of a whole model's FLOPs, exact to a token.

    Args:
        structure: of the model.
        latent: (height, width) of the latent.
        saving: wanted share of FLOPs to save, 0 to less than 1. For an ideal speed-up of x it is 1 - 1/x.
        schedule: whose ratio is solved for; by default all steps and blocks are pruned alike.
        point: where tokens are dropped.
        context_tokens: text tokens.

    Raises:
        ValueError: the saving is outside its range, or more than the schedule can reach; the message names the most.
    """
    if not 0.0 <= saving < 1.0:
        raise ValueError(f"saving is {saving}: give a share of FLOPs, 0 or more and less than 1")
    schedule = schedule or DSAPSchedule()
    full = unet_flops(structure, latent, context_tokens=context_tokens)

    def saved(ratio: float) -> float:
        candidate = replace(schedule, prune_ratio=ratio)
        flops = average_flops(structure, latent, candidate, point=point, context_tokens=context_tokens)
        return 1.0 - flops / full

    if saved(MAX_RATIO) < saving:
        most = saved(MAX_RATIO)
        raise ValueError(
            f"saving is {saving:.1%}, but with this schedule at most {most:.1%} can be saved (an ideal speed-up of "
            f"{1 / (1 - most):.2f}x) at this size: the rest of the model is not pruned. Ask for less, prune earlier "
            "in the block, spare fewer blocks, or make the picture larger."
        )
    low, high = 0.0, MAX_RATIO
    if saved(low) >= saving:
        high = low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if saved(middle) >= saving else (middle, high)
    return budget_of(structure, latent, replace(schedule, prune_ratio=high), point=point, context_tokens=context_tokens)


def budget_of(
    structure: UNetStructure,
    latent: tuple[int, int],
    schedule: DSAPSchedule,
    *,
    point: PrunePoint = "after first layer",
    context_tokens: int = CONTEXT_TOKENS,
) -> Budget:
    """What a schedule costs, level by level."""
    levels = []
    for level in sorted({block.level for block in structure.blocks}):
        blocks = [block for block in structure.blocks if block.level == level]
        grid = structure.grid(level, latent)
        tokens = grid[0] * grid[1]
        full = sum(block_flops(block, tokens, context_tokens=context_tokens) for block in blocks)
        spent = sum(
            weight
            * block_flops(
                block,
                tokens,
                kept_tokens(tokens, schedule.ratio(progress, block)),
                context_tokens=context_tokens,
                point=prune_point(block.layers, point),
            )
            for block in blocks
            for progress, weight in progress_weights(schedule)
        )
        layers = sum(block.layers for block in blocks)
        levels.append(LevelCost(LEVEL_NAMES[level], grid, len(blocks), layers, full, spent))
    return Budget(
        schedule,
        unet_flops(structure, latent, context_tokens=context_tokens),
        average_flops(structure, latent, schedule, point=point, context_tokens=context_tokens),
        tuple(levels),
    )


def describe_budget(budget: Budget, picture: tuple[int, int]) -> str:
    """A budget in words and a table, for people. `picture` is (width, height) in pixels."""
    tera = 1e12
    schedule = budget.schedule
    lines = [
        f"prune_ratio {schedule.prune_ratio:.4f} at {picture[0]} x {picture[1]}: {budget.flops / tera:.3f} of "
        f"{budget.flops_full / tera:.3f} TFLOPs a step, {budget.saving:.1%} saved, ideal speed-up "
        f"{budget.speed_up:.2f}x",
        "",
        f"{'level':<8}{'tokens':>12}{'blocks':>8}{'layers':>8}{'TFLOPs full':>13}{'pruned':>9}{'saved':>8}",
    ]
    for level in budget.levels:
        saved = 1.0 - level.flops / level.flops_full
        tokens = f"{level.grid[1]} x {level.grid[0]}"
        lines.append(
            f"{level.name:<8}{tokens:>12}{level.blocks:>8}{level.layers:>8}{level.flops_full / tera:>13.3f}"
            f"{level.flops / tera:>9.3f}{saved:>8.1%}"
        )
    rest = budget.flops_full - sum(level.flops_full for level in budget.levels)
    lines.append(
        f"{'other':<8}{'':>12}{'':>8}{'':>8}{rest / tera:>13.3f}{rest / tera:>9.3f}{0:>8.1%}  convolutions, not pruned"
    )
    lines.append("")
    lines.append("Averaged over a run with evenly spaced steps, one sample, two operations per multiply-add.")
    return "\n".join(lines)
