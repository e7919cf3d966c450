"""One sampling run with forecasts. Made anew for each run, dropped when it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...atedm_core.forecast import PredictionHistory
from ...atedm_core.forecast_plan import BudgetController, ForecastSettings
from ...atedm_core.forecast_schedule import UNKNOWN_SHARE, EvaluationSchedule, StepShare, step_shares
from ..host.step_watch import Doing
from .samplers import SamplerKind


@dataclass(frozen=True)
class ForecastMethod:
    """What is done to a model, fixed when the node runs."""

    settings: ForecastSettings


@dataclass
class EvaluationRecord:
    """One evaluation that the sampler asked for.

    Attributes:
        step: of the sampler, from 0.
        sigma: noise level.
        real: the model was asked.
        predicted: error expected of a forecast, over the prediction's size; infinite where nothing was known.
        measured: what it was, where the model was asked too.
    """

    step: int
    sigma: float
    real: bool
    predicted: float
    measured: float | None = None


@dataclass
class ForecastRun:
    """State of one run: three predictions, and numbers.

    Attributes:
        method: what to do.
        schedule: where the run is.
        kind: of the sampler.
        controller: the budget.
        evaluations: what was done; stays when the run is reset.
        whole_because: why this run is not forecast at all; empty if it is.
    """

    method: ForecastMethod
    schedule: EvaluationSchedule
    kind: SamplerKind
    controller: BudgetController = field(init=False)
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    whole_because: str = ""
    _history: PredictionHistory = field(default_factory=PredictionHistory)
    _told: int = 0
    # of the forecasts since the last real evaluation: the step's weight, and the distance bridged
    _owed: list[tuple[float, float]] = field(default_factory=list)

    def __deepcopy__(self, memo: dict[int, Any]) -> ForecastRun:
        """Itself: nodes that copy the options deeply for a model call of their own are still in this run."""
        return self

    def __post_init__(self) -> None:
        self.controller = BudgetController(self.method.settings)
        self._shares = step_shares(self.schedule.sigmas, self.kind.stochastic, self.kind.multistep, self.schedule.flow)

    def answer(self, x: Tensor, sigma: float, evaluate: Callable[[], Tensor]) -> Tensor:
        """The prediction for a latent `[B, ...]` at a noise level: the model's or a forecast."""
        self.settle()
        if not self._history.fits(x):
            self._forget()
        self.schedule.arrive(sigma)
        coming, place = self.schedule.coming(), self.schedule.place
        real = len(self._history) == 0 or self.controller.next_is_real(coming)
        expected = self.controller.predicted(place)
        self.evaluations.append(EvaluationRecord(self.schedule.step, sigma, real, expected))
        if not real:
            self._owed.append((self._share().weight, place - self._history.place))
            self.controller.skip(coming[0])
            return self._history.forecast(place)
        truth = evaluate()
        if not self._history.fits(truth):
            self._forget()
        given = self._repaid(truth, place)
        self._history.observe(place, truth)
        self.controller.spend(place)
        return given

    def doing(self) -> Doing:
        """What was done since this was last asked."""
        new, self._told = self.evaluations[self._told :], len(self.evaluations)
        return "full" if all(one.real for one in new) else "forecast"

    def settle(self) -> None:
        """Take in the error that the last real evaluation measured."""
        measured = self._history.measured()
        if measured is not None:
            self.evaluations[-1].measured = measured.relative
            self.controller.learn(measured.relative)

    def reset(self) -> None:
        """Free the predictions."""
        self._history.reset()
        self._owed.clear()

    def _forget(self) -> None:
        self.reset()
        self.controller.forget()

    def _share(self) -> StepShare:
        if not self.kind.repays or self.schedule.calls_per_step > 1:
            return UNKNOWN_SHARE
        return self._shares[self.schedule.step]

    def _repaid(self, truth: Tensor, place: float) -> Tensor:
        own, owed = self._share(), self._owed
        self._owed = []
        if not owed or not own.repays or abs(place - self._history.place) < 1e-4:
            return truth
        total = sum(weight * distance for weight, distance in owed) / own.weight
        return truth - self._history.repayment(total, place, truth)
