"""Puts forecasts on a ComfyUI MODEL, and gives every sampling run a state of its own.

A guider is asked for the clean latent once per evaluation, with all that guidance, conditions, masks and other packs do
inside of it. A forecast stands in place of that whole answer, so nothing in there is touched and no kind of model is
special.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...atedm_core.forecast_plan import ForecastSettings
from ...atedm_core.forecast_schedule import Evaluation, EvaluationSchedule
from ..host.run_scope import Asked, Ended, applied, put_on
from .guidance import POST_CFG, Function, evaluate_both, hand_over, own_functions, twice
from .recording import record_of
from .run import ForecastMethod, ForecastRun
from .samplers import SamplerKind, sampler_kind
from .summary import explain_no_forecast, summarize

logger = logging.getLogger(__name__)

KEY = "step_forecast"
OBSERVERS_KEY = "step_forecast_observers"
"""A list of `ForecastObserver` in `transformer_options`. Nobody who is not there costs anything."""


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
    return put_on(model, KEY, method, lambda asked: begin(method, asked), hang_in, conclude)


def applied_forecast(model: Any) -> ForecastMethod | None:
    """What `apply_forecast` put on a MODEL or on one that it was cloned from; `None` if nothing."""
    return applied(model, KEY, ForecastMethod)


def begin(method: ForecastMethod, asked: Asked) -> ForecastRun:
    """State of a run."""
    kind = sampler_kind(asked.sampler)
    schedule = _schedule(method.settings, kind, asked)
    return ForecastRun(method, replace(schedule, open_ended=kind.levels == "unknown"), kind)


def evaluations(settings: ForecastSettings, asked: Asked) -> list[Evaluation]:
    """All evaluations of a run of one step or more, as far as can be known before: one for each step."""
    schedule = _schedule(settings, sampler_kind(asked.sampler), asked)
    schedule.arrive(schedule.sigmas[0])
    return schedule.coming()


def _schedule(settings: ForecastSettings, kind: SamplerKind, asked: Asked) -> EvaluationSchedule:
    flow = isinstance(asked.guider.model_patcher.get_model_object("model_sampling"), CONST)
    levels = kind.levels_for(asked.sigmas)
    return EvaluationSchedule(levels, flow, kind.multistep, settings.first_steps, settings.last_steps)


def hang_in(run: ForecastRun, asked: Asked, options: dict[str, Any]) -> None:
    """Put it into the run's own options."""
    if run.method.settings.compute >= 1.0 or asked.steps < 1:
        return
    wrappers = options["transformer_options"].setdefault("wrappers", {})
    # Outermost: what other methods count and keep per evaluation, they count and keep for real ones only.
    others = wrappers.get(WrappersMP.PREDICT_NOISE, {})
    wrappers[WrappersMP.PREDICT_NOISE] = {KEY: [_predict_noise(run, asked)], **others}


def _predict_noise(run: ForecastRun, asked: Asked) -> Any:
    of_the_model = len(asked.options.get(POST_CFG, ()))

    def wrapper(executor: Any, x: Any, timestep: Any, model_options: Any = None, *args: Any, **kwargs: Any) -> Any:
        options = {} if model_options is None else model_options

        def evaluate(options: dict[str, Any] = options) -> Any:
            return executor(x, timestep, options, *args, **kwargs)

        if run.whole_because:
            return evaluate()
        functions, sigma = own_functions(options, of_the_model), float(timestep.max())
        if not functions:
            return run.answer(x, sigma, evaluate)
        return _answer_both(run, executor.class_obj, functions, x, timestep, sigma, options, evaluate)

    return wrapper


def _answer_both(
    run: ForecastRun,
    guider: Any,
    functions: Sequence[Function],
    x: Tensor,
    timestep: Tensor,
    sigma: float,
    options: dict[str, Any],
    evaluate: Callable[[dict[str, Any]], Tensor],
) -> Tensor:
    """For a sampler that looks into guidance."""
    real: list[Tensor] = []

    def both() -> Tensor:
        guided, unguided = evaluate_both(evaluate, options)
        real.append(guided)
        if unguided is None:
            run.whole_because = (
                "this sampler looks into the guidance of every evaluation, and there is none here. Choose another."
            )
        return twice(guided, guided if unguided is None else unguided)

    answer = run.answer(twice(x, x), sigma, both)
    if real:  # the sampler's functions have been called, with the truth
        return real[0]
    conditions = getattr(guider, "conds", None) or {}
    given = {
        "cond": conditions.get("positive"),
        "uncond": conditions.get("negative"),
        "cond_scale": getattr(guider, "cfg", 1.0),
        "model": getattr(guider, "inner_model", None),
        "sigma": timestep,
        "model_options": options,
        "input": x,
    }
    return hand_over(functions, answer, given)


def conclude(run: ForecastRun, asked: Asked, seconds: float | None) -> Ended:
    """Say what a run did."""
    run.settle()
    for observer in asked.options.get("transformer_options", {}).get(OBSERVERS_KEY, ()):
        observer.finished(run)
    # SplitSigmas can leave a sampler without a step; then there is nothing to explain.
    if asked.steps < 1:
        return Ended()
    off = run.method.settings.compute >= 1.0
    if not off:
        logger.info("%s", summarize(run, finished=seconds is not None))
    if seconds is None:
        return Ended()
    why = None if run.controller.skipped else explain_no_forecast(run)
    if why is not None and not off:
        logger.warning("Step Forecast: no evaluation was left out: %s", why.english())
    return Ended(record_of(run, asked, seconds), why, off)
