"""AT-EDM Budget: a wanted saving instead of a ratio."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..atedm_core.unet.budget import Budget, LevelCost, solve_budget
from ..atedm_core.unet.flops import LATENT_SCALE
from ..atedm_core.unet.schedule import DEFAULT_SCHEDULE
from ..atedm_core.unet.settings import (
    DEFAULT_SETTINGS,
    MAX_ITERATIONS,
    MAX_RANK_INTERVAL,
    MERGES,
    PRUNE_POINTS,
    RANKINGS,
    RECOVERIES,
    STAND_INS,
    VOTERS,
    PruneSettings,
)
from ..patches.unet.planned import PlannedRatio
from ..patches.unet.structure import describe_unet, supported_unet
from .types import (
    ALIASES,
    advanced_combo,
    advanced_count,
    checked_latent,
    checked_model,
    checked_schedule,
    named_output,
    schedule_input,
    share_input,
)

_TERA = 1e12
_SAME = "The same as in AT-EDM Apply."
_RANKS = "The same as in AT-EDM Apply. It decides what 'block start' can save."


def _pixels(name: str, tooltip: str) -> io.Int.Input:
    return io.Int.Input(name, default=1024, min=16, max=16384, step=8, tooltip=tooltip)


class ATEDMBudget(io.ComfyNode):
    """A share of FLOPs in, the prune ratio that saves it out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMBudget",
            display_name="AT-EDM Budget",
            category="model/patch/unet",
            description=(
                "Finds the prune_ratio that saves a wanted share of a model's FLOPs at a size, and reports level by "
                "level where it is saved. Connect prune_ratio to AT-EDM Apply."
            ),
            search_aliases=[*ALIASES, "flops", "budget", "speed-up", "prune ratio"],
            inputs=[
                io.Model.Input("model", tooltip="The model that AT-EDM Apply will prune."),
                _pixels("width", "Width of the picture in pixels."),
                _pixels("height", "Height of the picture in pixels."),
                share_input(
                    "saving",
                    0.35,
                    "Share of the whole model's FLOPs to save, averaged over a run. An ideal speed-up of x is 1 - 1/x: "
                    "0.33 is 1.5 times.",
                    limits=(0.0, 0.95),
                ),
                schedule_input(
                    "The same AT-EDM DSAP Schedule that goes into AT-EDM Apply. Left open, all steps are pruned alike."
                ),
                advanced_combo("prune_from", PRUNE_POINTS, DEFAULT_SETTINGS.prune_from, _SAME),
                advanced_combo("ranking", RANKINGS, DEFAULT_SETTINGS.ranking, _RANKS),
                advanced_count("rank_interval", DEFAULT_SETTINGS.rank_interval, (1, MAX_RANK_INTERVAL), _RANKS),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The latent that will be sampled. Its size then counts, in place of width and height.",
                ),
                advanced_combo("recovery", RECOVERIES, DEFAULT_SETTINGS.recovery, _SAME),
                advanced_combo("stand_in", STAND_INS, DEFAULT_SETTINGS.stand_in, _SAME),
                advanced_count("iterations", DEFAULT_SETTINGS.iterations, (1, MAX_ITERATIONS), _SAME),
                advanced_combo("voters", VOTERS, DEFAULT_SETTINGS.voters, _SAME),
                advanced_combo("merge", MERGES, DEFAULT_SETTINGS.merge, _SAME),
            ],
            outputs=[
                named_output(io.Float, "prune_ratio", "Connect to prune_ratio of AT-EDM Apply."),
                named_output(io.String, "report", "What is saved where, as text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        width: int,
        height: int,
        saving: float,
        schedule: Any = None,
        latent: Any = None,
        **advanced: Any,
    ) -> io.NodeOutput:
        structure = describe_unet(supported_unet(checked_model(model), "AT-EDM Budget"))
        wanted = checked_schedule(schedule) or DEFAULT_SCHEDULE
        wanted.check_levels(structure)
        samples = checked_latent("latent", latent)
        if samples is not None:
            height, width = (LATENT_SCALE * side for side in samples.shape[-2:])
        size = (height // LATENT_SCALE, width // LATENT_SCALE)
        budget = solve_budget(structure, size, saving, wanted, settings=PruneSettings(**advanced))
        ratio = PlannedRatio(budget.schedule.prune_ratio, size)
        return io.NodeOutput(ratio, describe_budget(budget, (width, height)))


def describe_budget(budget: Budget, picture: tuple[int, int]) -> str:
    """A budget in words and a table, for people. `picture` is (width, height) in pixels."""
    schedule = budget.schedule
    rest = budget.flops_full - sum(level.flops_full for level in budget.levels)
    lines = [
        f"prune_ratio {schedule.prune_ratio:.4f} at {picture[0]} x {picture[1]}: {budget.flops / _TERA:.3f} of "
        f"{budget.flops_full / _TERA:.3f} TFLOPs a step, {budget.saving:.1%} saved, ideal speed-up "
        f"{budget.speed_up:.2f}x",
        "",
        f"{'level':<8}{'tokens':>12}{'blocks':>8}{'layers':>8}{'TFLOPs full':>13}{'pruned':>9}{'saved':>8}",
        *(_level_row(level) for level in budget.levels),
        f"{'other':<36}{rest / _TERA:>13.3f}{rest / _TERA:>9.3f}{0:>8.1%}  convolutions, not pruned",
        "",
        "Averaged over a run with evenly spaced steps, one sample, two operations per multiply-add. It "
        "includes choosing tokens and filling them in.",
    ]
    return "\n".join(lines)


def _level_row(level: LevelCost) -> str:
    saved = 1.0 - level.flops / level.flops_full
    return (
        f"{level.name:<8}{f'{level.grid[1]} x {level.grid[0]}':>12}{level.blocks:>8}{level.layers:>8}"
        f"{level.flops_full / _TERA:>13.3f}{level.flops / _TERA:>9.3f}{saved:>8.1%}"
    )
