"""The evaluations that a sampler will ask for: where they lie, and how much each counts in the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .forecast import half_log_snr

_SAME_SIGMA = 1e-4
_MOST_SIGMA = 0.9999  # of flow models: samplers begin below 1, where there is a signal


@dataclass(frozen=True)
class Evaluation:
    """One evaluation that is to come.

    Attributes:
        place: half the log-SNR.
        weight: of its prediction in the step that the sampler takes with it, 0 and up.
        must_be_real: whatever its error.
    """

    place: float
    weight: float
    must_be_real: bool = False


def step_weights(sigmas: Sequence[float], multistep: bool) -> list[float]:
    """Of each step's prediction in the latent after it: `1 - next / sigma`, the same for ODEs of every kind of model.

    A multistep sampler also adds differences of predictions, as DPM-Solver++(2M) does (arXiv 2211.01095, algorithm 2).
    An error is then in two steps, and large where a step is followed by a much longer one, as at the end of most
    schedules.

    Args:
        sigmas: noise levels of a run, falling, one more than there are steps.
        multistep: the sampler keeps earlier predictions.
    """
    plain = [1.0 - after / sigma if sigma > 0 else 1.0 for sigma, after in pairwise(sigmas)]
    if not multistep:
        return plain
    widths = _log_widths(sigmas)
    weights = list(plain)
    for step, width in enumerate(widths):
        if width is None:
            continue
        if step > 0 and (before := widths[step - 1]) is not None and before > 0:
            extra = plain[step] * width / (2 * before)
            weights[step] += extra
            weights[step - 1] += extra
    return weights


def levels_of_dpm_fast(sigmas: Sequence[float]) -> list[float]:
    """Where DPM-Solver-fast evaluates (arXiv 2206.00927, section 3.4), and where it ends.

    As many evaluations as a run has steps are spread over intervals that are equal in the logarithm, each of three (at
    its thirds), the last ones of what is left over: two (at its half) and one.

    Args:
        sigmas: noise levels of the run, falling, one more than there are steps; of these, the first and the last that
            is not zero count.
    """
    steps = len(sigmas) - 1
    end = sigmas[-1] if sigmas[-1:] and sigmas[-1] > 0 else sigmas[-2] if steps > 0 else 0.0
    if steps < 1 or end <= 0.0:
        return list(sigmas)
    thirds, rest = divmod(steps, 3)
    orders = [3] * thirds + [rest] if rest else [3] * (thirds - 1) + [2, 1]
    width = math.log(end / sigmas[0]) / len(orders)
    places = [(number + call / order) * width for number, order in enumerate(orders) for call in range(order)]
    return [*(sigmas[0] * math.exp(place) for place in places), end]


@dataclass(frozen=True)
class StepShare:
    """What the prediction of one step is to the result of a run.

    Attributes:
        weight: how much it counts, up to a factor common to all steps; below 0 where a multistep sampler takes back
            more of it in the step after than it added in its own.
        repays: whether errors of the steps before can be taken back through it.
    """

    weight: float
    repays: bool


UNKNOWN_SHARE = StepShare(0.0, False)
_LEAST_REPAYING = 0.25
"""Of the weight that a step would have without those around it: what is repaid through less is thrown about."""


def step_shares(
    sigmas: Sequence[float], stochastic: bool, multistep: bool = False, flow: bool = False
) -> list[StepShare]:
    """What each step's prediction is to the result of the run.

    To first order a step multiplies the latent's noise by `next / sigma`, so predictions weigh as the differences of
    `sigma ** -1`; if it adds noise of its own, as the differences of the square of signal over noise, which for flow
    models is that of `(1 - sigma) / sigma`. A multistep sampler goes on along the line through the last two
    predictions, half a step far (DPM-Solver++(2M), arXiv 2211.01095, algorithm 2): so each counts for more in its own
    step, and is taken back in part in the next. Nothing is repaid in the last step, which replaces the latent.
    """

    def worth(sigma: float) -> float:
        if not stochastic:
            return 1.0 / sigma
        return ((1.0 - sigma if flow else 1.0) / sigma) ** 2

    widths = _log_widths(sigmas, stochastic and flow)
    plain = [
        worth(after) - worth(sigma) if width is not None and after < sigma else 0.0
        for (sigma, after), width in zip(pairwise(sigmas), widths, strict=True)
    ]
    weights = list(plain)
    for step, (before, width) in enumerate(pairwise(widths), start=1):
        if multistep and before is not None and width is not None and before > 0:
            extra = plain[step] * width / (2 * before)
            weights[step] += extra
            weights[step - 1] -= extra
    return [
        StepShare(weight, alone > 0.0 and weight >= _LEAST_REPAYING * alone)
        for weight, alone in zip(weights, plain, strict=True)
    ]


def _log_widths(sigmas: Sequence[float], flow: bool = False) -> list[float | None]:
    """Of each step in half the log-SNR, as samplers reckon it: in pure noise too. `None` where a step ends without."""

    def place(sigma: float) -> float:
        signal = 1.0 - min(sigma, _MOST_SIGMA) if flow else 1.0
        return math.log(signal / sigma)

    return [place(after) - place(sigma) if sigma > 0 and after > 0 else None for sigma, after in pairwise(sigmas)]


@dataclass
class EvaluationSchedule:
    """Where a run is, and what evaluations are still to come. Learns on the way how many a sampler makes in a step.

    Attributes:
        sigmas: noise levels of the run, falling, one more than there are steps.
        flow: see `half_log_snr`.
        multistep: see `step_weights`.
        first_steps, last_steps: sampler steps at either end whose evaluations must be real.
        open_ended: the sampler chooses its own noise levels, and nobody knows how many. Then evaluations are counted as
            they come, so the budget is met at any time, and the first ones must be real instead of the first steps'.
        step: the one that the last evaluation belongs to.
        calls_per_step: as far as was seen: 1 for euler, 2 for heun, dpm_2 and dpmpp_sde.
    """

    sigmas: Sequence[float]
    flow: bool
    multistep: bool
    first_steps: int
    last_steps: int
    open_ended: bool = False
    step: int = -1
    calls_per_step: int = 1
    _calls: int = 0
    _arrived: int = 0
    _ends_on_levels: bool = False
    _sigma: float = 0.0
    _weights: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._weights = step_weights(self.sigmas, self.multistep)

    @property
    def steps(self) -> int:
        """Of the sampler."""
        return len(self.sigmas) - 1

    @property
    def place(self) -> float:
        """Half the log-SNR of the last evaluation."""
        return half_log_snr(self._sigma, self.flow)

    def arrive(self, sigma: float) -> None:
        """An evaluation at a noise level was asked for, real or not."""
        reached = [at >= sigma * (1.0 - _SAME_SIGMA) for at in self.sigmas[:-1]]
        step = max(sum(reached) - 1, 0)
        # a second call at one level: heun and its like end a step where the next begins, the one before the last too
        self._ends_on_levels |= step == self.step and abs(sigma - self._sigma) <= _SAME_SIGMA * sigma
        self._calls = self._calls + 1 if step == self.step else 1
        self.calls_per_step = max(self.calls_per_step, self._calls)
        self.step, self._sigma, self._arrived = step, sigma, self._arrived + 1

    def coming(self) -> list[Evaluation]:
        """The evaluation that was asked for last and those after it, as far as is known; one for the last step."""
        if self.open_ended:
            return [Evaluation(self.place, self._weights[self.step], self._arrived <= self.first_steps)]
        found = [Evaluation(self.place, self._weights[self.step], self._must_be_real(self.step))]
        for step in range(self.step, self.steps):
            calls = self.calls_per_step if step < self.steps - 1 or self._ends_on_levels else 1
            begin, end = (half_log_snr(self.sigmas[at], self.flow) for at in (step, step + 1))
            for call in range(self._calls if step == self.step else 0, calls):
                place = begin + (end - begin) * call / calls
                found.append(Evaluation(place, self._weights[step], self._must_be_real(step)))
        return found

    def _must_be_real(self, step: int) -> bool:
        return step < self.first_steps or step >= self.steps - self.last_steps
