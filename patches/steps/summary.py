"""What a run with forecasts did, in one line for the log."""

from __future__ import annotations

from statistics import median

from ...atedm_core.forecast_plan import WORST_ERROR
from ...report.words import Said, reason
from .run import ForecastRun


def summarize(run: ForecastRun, finished: bool) -> str:
    """Evaluations that were real and forecast, how far forecasts were off, and what was refused."""
    total, real = len(run.evaluations), sum(one.real for one in run.evaluations)
    share = f" ({real / total:.0%}, asked for {run.method.settings.compute:.0%})" if total else ""
    parts = [f"Step Forecast: {real} of {total} evaluations real{share}"]
    parts.append(f"{run.schedule.steps} steps")
    measured = [one.measured for one in run.evaluations if one.measured is not None]
    if measured:
        parts.append(f"a forecast one evaluation ahead was off by {median(measured):.1%} (median)")
    if run.controller.refused:
        parts.append(
            f"{run.controller.refused} forecasts were not made because those before would have been off by more than "
            f"{WORST_ERROR:.0%}"
        )
    return ", ".join(parts) + ("" if finished else " (interrupted)")


def explain_no_forecast(run: ForecastRun) -> Said:
    """Why a run that finished forecast nothing, and what to change."""
    settings, steps = run.method.settings, run.schedule.steps
    if settings.compute >= 1.0:
        return reason("compute_off")
    if run.whole_because:
        return reason("other", text=run.whole_because)
    if run.controller.refused:
        return reason("forecasts_refused")
    if steps <= settings.first_steps + settings.last_steps:
        return reason("all_real", steps=steps, first=settings.first_steps, last=settings.last_steps)
    return reason("none_left_out", compute=settings.compute, count=len(run.evaluations))
