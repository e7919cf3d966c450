"""Puts forecasts on a ComfyUI MODEL, and gives every sampling run a state of its own.

A guider is asked for the clean latent once per evaluation, with all that guidance, conditions, masks and other packs do
inside of it. A forecast stands in place of that whole answer, so nothing in there is touched and no kind of model is
special.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP

from ...atedm_core.forecast_plan import ForecastSettings
from ...atedm_core.forecast_schedule import EvaluationSchedule
from ..host.run_scope import Asked, applied, put_on
from .run import ForecastMethod, ForecastRun
from .samplers import sampler_kind
from .summary import explain_no_forecast, summarize

logger = logging.getLogger(__name__)

KEY = "step_forecast"
OBSERVERS_KEY = "step_forecast_observers"
"""A list of `ForecastObserver` in `transformer_options`. Nobody who is not there costs anything."""

_POST_CFG = "sampler_post_cfg_function"


class ForecastObserver(Protocol):
    """Whoever wants to know what a run did."""

    def finished(self, run: ForecastRun) -> None:
        """The run has ended or was interrupted."""


def apply_forecast(model: Any, settings: ForecastSettings) -> Any:
    """A clone of `model` that leaves evaluations out. The model given is left as it is.

    Applied to a model that has forecasts already, it replaces what was there.

    Args:
        model: a ComfyUI MODEL (ModelPatcher) of any kind.
        settings: how many evaluations are real.
    """
    method = ForecastMethod(settings)
    return put_on(model, KEY, method, lambda asked: _begin(method, asked), _hang_in, _conclude)


def applied_forecast(model: Any) -> ForecastMethod | None:
    """What `apply_forecast` put on a MODEL or on one that it was cloned from; `None` if nothing."""
    return applied(model, KEY, ForecastMethod)


def _begin(method: ForecastMethod, asked: Asked) -> ForecastRun:
    settings, kind = method.settings, sampler_kind(asked.sampler)
    flow = isinstance(asked.guider.model_patcher.get_model_object("model_sampling"), CONST)
    ends = (settings.first_steps, settings.last_steps)
    return ForecastRun(method, EvaluationSchedule(asked.sigmas, flow, kind.multistep, *ends), kind)


def _hang_in(run: ForecastRun, asked: Asked, options: dict[str, Any]) -> None:
    if run.method.settings.compute >= 1.0 or asked.steps < 1:
        return
    wrappers = options["transformer_options"].setdefault("wrappers", {})
    # Outermost: what other methods count and keep per evaluation, they count and keep for real ones only.
    others = wrappers.get(WrappersMP.PREDICT_NOISE, {})
    wrappers[WrappersMP.PREDICT_NOISE] = {KEY: [_predict_noise(run, asked)], **others}


def _predict_noise(run: ForecastRun, asked: Asked) -> Any:
    functions = len(asked.options.get(_POST_CFG, ()))

    def wrapper(executor: Any, x: Any, timestep: Any, model_options: Any = None, *args: Any, **kwargs: Any) -> Any:
        options = {} if model_options is None else model_options

        def evaluate() -> Any:
            return executor(x, timestep, options, *args, **kwargs)

        if len(options.get(_POST_CFG, ())) > functions:
            run.whole_because = (
                "this sampler looks into the guidance of every evaluation (its name ends in cfg_pp), which a forecast "
                "does not have. Choose another sampler."
            )
        if run.whole_because:
            return evaluate()
        return run.answer(x, float(timestep.max()), evaluate)

    return wrapper


def _conclude(run: ForecastRun, asked: Asked, seconds: float | None) -> None:
    run.settle()
    for observer in asked.options.get("transformer_options", {}).get(OBSERVERS_KEY, ()):
        observer.finished(run)
    # SplitSigmas can leave a sampler without a step; then there is nothing to explain.
    if asked.steps < 1 or run.method.settings.compute >= 1.0:
        return
    logger.info("%s", summarize(run, finished=seconds is not None))
    if seconds is not None and run.controller.skipped == 0:
        logger.warning("Step Forecast: no evaluation was left out: %s", explain_no_forecast(run))
