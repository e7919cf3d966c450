"""Step Forecast Apply: the node between the loader of any model and the sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..atedm_core.forecast_plan import ForecastSettings
from ..patches.steps.apply import apply_forecast
from .types import ALIASES, checked_model, faster_model

_DEFAULT = ForecastSettings()
_LEAST_COMPUTE = 0.2
_MOST_STEPS = 1000


def _count(name: str, default: int, tooltip: str) -> io.Int.Input:
    return io.Int.Input(name, default=default, min=1, max=_MOST_STEPS, optional=True, advanced=True, tooltip=tooltip)


class StepForecastApply(io.ComfyNode):
    """MODEL in, a faster MODEL out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StepForecastApply",
            display_name="Step Forecast Apply",
            category="model/patch",
            description=(
                "Makes any model faster without retraining: some evaluations of the model are left out, and what it "
                "would have said is forecast from its last real answers. Every real answer says how far a forecast "
                "would have been off, and corrects the next ones. Place it between the model loader (and "
                "LoRAs) and the sampler. The log says after each run what was done."
            ),
            search_aliases=[
                *ALIASES,
                "cache",
                "easycache",
                "teacache",
                "skip steps",
                "step forecast",
                "speed up",
                "accelerate",
            ],
            inputs=[
                io.Model.Input("model", tooltip="A model of any kind: for pictures, video or sound."),
                io.Float.Input(
                    "compute",
                    default=_DEFAULT.compute,
                    min=_LEAST_COMPUTE,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Share of the model's evaluations that are real. Lower is faster and departs further from the "
                        "full model's picture: 0.5 takes half the time. 1 changes nothing at all."
                    ),
                ),
                _count(
                    "first_steps",
                    _DEFAULT.first_steps,
                    "So many steps at the beginning are always real. They decide what is in the picture.",
                ),
                _count(
                    "last_steps",
                    _DEFAULT.last_steps,
                    "So many steps at the end are always real. They draw what nothing after them corrects.",
                ),
                _count("most_skips", _DEFAULT.most_skips, "Forecasts in a row at most."),
            ],
            outputs=[faster_model()],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        compute: float,
        first_steps: int = _DEFAULT.first_steps,
        last_steps: int = _DEFAULT.last_steps,
        most_skips: int = _DEFAULT.most_skips,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            apply_forecast(checked_model(model), ForecastSettings(compute, first_steps, last_steps, most_skips))
        )
