"""AT-EDM Budget: a wanted saving instead of a ratio."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..atedm_core.unet.budget import Budget, solve_budget
from ..atedm_core.unet.flops import LATENT_SCALE
from ..atedm_core.unet.schedule import DEFAULT_SCHEDULE
from ..atedm_core.unet.settings import (
    DEFAULT_SETTINGS,
    MAX_RANK_INTERVAL,
    PRUNE_POINTS,
    RANKINGS,
    PrunePoint,
    PruneSettings,
    Ranking,
)
from ..patches.unet.structure import describe_unet, supported_unet
from .types import Schedule, checked_schedule

_STEP = 8
_MAX_PIXELS = 16384


def _pixels(name: str, tooltip: str) -> io.Int.Input:
    return io.Int.Input(name, default=1024, min=16, max=_MAX_PIXELS, step=_STEP, tooltip=tooltip)


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
            search_aliases=["atedm", "at-edm", "flops", "budget", "speed-up", "prune ratio"],
            inputs=[
                io.Model.Input("model", tooltip="The model that AT-EDM Apply will prune."),
                _pixels("width", "Width of the picture in pixels."),
                _pixels("height", "Height of the picture in pixels."),
                io.Float.Input(
                    "saving",
                    default=0.35,
                    min=0.0,
                    max=0.95,
                    step=0.01,
                    tooltip=(
                        "Share of the whole model's FLOPs to save, averaged over a run. An ideal speed-up of x is "
                        "1 - 1/x: 0.33 is 1.5 times."
                    ),
                ),
                Schedule.Input(
                    "schedule",
                    optional=True,
                    tooltip=(
                        "The same AT-EDM DSAP Schedule that goes into AT-EDM Apply. Left open, all steps are pruned "
                        "alike."
                    ),
                ),
                io.Combo.Input(
                    "prune_from",
                    options=list(PRUNE_POINTS),
                    default=DEFAULT_SETTINGS.prune_from,
                    optional=True,
                    advanced=True,
                    tooltip="The same as in AT-EDM Apply.",
                ),
                io.Combo.Input(
                    "ranking",
                    options=list(RANKINGS),
                    default=DEFAULT_SETTINGS.ranking,
                    optional=True,
                    advanced=True,
                    tooltip="The same as in AT-EDM Apply. It decides what 'block start' can save.",
                ),
                io.Int.Input(
                    "rank_interval",
                    default=DEFAULT_SETTINGS.rank_interval,
                    min=1,
                    max=MAX_RANK_INTERVAL,
                    optional=True,
                    advanced=True,
                    tooltip="The same as in AT-EDM Apply. It decides what 'block start' can save.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "prune_ratio", display_name="prune_ratio", tooltip="Connect to prune_ratio of AT-EDM Apply."
                ),
                io.String.Output("report", display_name="report", tooltip="What is saved where, as text."),
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
        prune_from: PrunePoint = DEFAULT_SETTINGS.prune_from,
        ranking: Ranking = DEFAULT_SETTINGS.ranking,
        rank_interval: int = DEFAULT_SETTINGS.rank_interval,
    ) -> io.NodeOutput:
        settings = PruneSettings(ranking, prune_from=prune_from, rank_interval=rank_interval)
        structure = describe_unet(supported_unet(model))
        wanted = checked_schedule(schedule) or DEFAULT_SCHEDULE
        wanted.check_levels(structure)
        latent = (height // LATENT_SCALE, width // LATENT_SCALE)
        budget = solve_budget(structure, latent, saving, wanted, settings=settings)
        return io.NodeOutput(budget.schedule.prune_ratio, describe_budget(budget, (width, height)))


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
