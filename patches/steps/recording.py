"""What stays of a run with forecasts when it has ended: which evaluations were real, and how far forecasts were off."""

from __future__ import annotations

import math

from ...report.record import Evaluation, RunRecord, Wording, shown_settings
from ..host.progress import percent_to_sigma_on_cpu, progress_of
from ..host.run_scope import Asked
from ..host.sampling import model_of
from .run import ForecastRun

_WORDING = Wording("Step Forecast", place="step", kept="computed", part="", unpruned="compute 1", in_sequence=True)


def record_of(run: ForecastRun, asked: Asked, seconds: float) -> RunRecord:
    """The record of a run that has ended; the sampling loop took `seconds`."""
    refused = run.controller.refused
    return RunRecord(
        wording=_WORDING,
        model=model_of(asked.guider),
        settings=shown_settings(vars(run.method.settings)),
        steps=asked.steps,
        seconds=seconds,
        samples=asked.noise.shape[0],
        conditions=1,
        latent=asked.latent,
        places=(),
        work=asked.work,
        notes=(f"{refused} forecasts were not made because those before were too far off",) if refused else (),
        evaluations=evaluations_of(run, asked),
    )


def evaluations_of(run: ForecastRun, asked: Asked) -> tuple[Evaluation, ...]:
    """What the sampler asked for, in the order in which it did."""
    to_sigma = percent_to_sigma_on_cpu(asked.guider.model_patcher.get_model_object("model_sampling"))
    return tuple(
        Evaluation(
            one.step,
            progress_of(one.sigma, to_sigma, 0.0),
            one.real,
            one.predicted if math.isfinite(one.predicted) else None,
            one.measured,
        )
        for one in run.evaluations
    )
