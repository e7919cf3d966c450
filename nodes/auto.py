"""AT-EDM Auto: a wanted speed-up in, a faster MODEL out, whatever kind of model it is."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..patches.steps.auto import DEFAULT_SPEED_UP, MAX_SPEED_UP, apply_auto
from .types import ALIASES, checked_model, faster_model


class ATEDMAuto(io.ComfyNode):
    """MODEL in, a MODEL out that is so many times as fast."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMAuto",
            display_name="AT-EDM Auto",
            category="model/patch",
            description=(
                "Makes any image, video or audio model as many times faster as you say, as near to the full model's "
                "result as that allows. When sampling begins it chooses how many steps to forecast instead of "
                "computing them, and for SDXL, SD 1.x and SD 2.x also how many tokens to drop. Place it between the "
                "model loader (and LoRAs) and the sampler. The log says after each run what it chose."
            ),
            search_aliases=[*ALIASES, "speed up", "accelerate", "faster", "cache", "auto", "skip steps"],
            inputs=[
                io.Model.Input("model", tooltip="Any model that a sampler takes."),
                io.Float.Input(
                    "speed_up",
                    default=DEFAULT_SPEED_UP,
                    min=1.0,
                    max=MAX_SPEED_UP,
                    step=0.1,
                    display_mode=io.NumberDisplay.slider,
                    tooltip=(
                        "How many times as fast, by computing operations. Higher departs further from the full "
                        "model's result; the more steps the sampler takes, the less. 1 changes nothing at all."
                    ),
                ),
            ],
            outputs=[faster_model()],
        )

    @classmethod
    def execute(cls, model: Any, speed_up: float) -> io.NodeOutput:
        return io.NodeOutput(apply_auto(checked_model(model), speed_up))
