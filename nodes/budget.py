"""AT-EDM Budget: a wanted saving instead of a ratio."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..atedm_core.unet.budget import describe_budget, solve_budget
from ..atedm_core.unet.flops import LATENT_SCALE, PRUNE_POINTS, PrunePoint
from ..atedm_core.unet.schedule import DSAPSchedule
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
                    default="after first layer",
                    optional=True,
                    advanced=True,
                    tooltip="The same as in AT-EDM Apply.",
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
        prune_from: PrunePoint = "after first layer",
    ) -> io.NodeOutput:
        structure = describe_unet(supported_unet(model))
        wanted = checked_schedule(schedule) or DSAPSchedule()
        wanted.check_levels(structure)
        latent = (height // LATENT_SCALE, width // LATENT_SCALE)
        budget = solve_budget(structure, latent, saving, wanted, point=prune_from)
        return io.NodeOutput(budget.schedule.prune_ratio, describe_budget(budget, (width, height)))
