"""Which evaluations of a sampling run are real: a budget, spent where leaving one out costs most.

An evaluation left out puts an error into the latent: the forecast's own, which grows with the distance bridged, times
the step that the sampler takes with it. Both follow from the noise schedule, up to a factor that is the model's. A
threshold on what has gathered since the last real evaluation decides; it is set anew at every evaluation so that the
rest of the run spends what is left of the budget. So the budget means the same on every model, sampler and number of
steps. What the factor is, every real evaluation measures, and forecasts that it forbids are not made.

The factor as last measured, set against the run's usual one, says little about where evaluations are worth most: it
falls all through a run, and following it put too many at the beginning (4 to 10 dB further from the full run at equal
cost, demo model). So it does not move them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .checks import check_range
from .forecast_schedule import Evaluation

STRONG_NOISE, PURE_NOISE = 8.0, 12.0
"""Noise over signal from which on forecasts cost more, and from which on less again.

In between a model decides what to draw. Where all is noise its prediction hardly changes, and an error in it is small
beside the noise: schedules that spend half of their steps there (karras, exponential, with zero-terminal SNR) must not
spend the budget there too."""
WORST_ERROR = 1.1
"""Where forecasts were lately off by more than this, over the size of the prediction, none is made.

A model of noise is past it everywhere: two draws of noise differ by 1.4 of their size, and one from the mean of a few
by 1.15. Under SDEs 0.5 to 1 is usual in early steps, and forecasts still pay."""

_RATIO_REMEMBERED = 0.5
_SHORTEST_STEP = 0.05
_HALVINGS = 24
_LEAST_COST = 1e-12
_NO_LIMIT = 1e30


def error_profile(place: float) -> float:
    """How much more a forecast's error costs at a half log-SNR than at the end, before anything was measured.

    Of several forms this was nearest to the full run on the demo model, over euler, dpmpp_2m, dpmpp_2m_sde and
    euler_ancestral at 8 to 50 steps: leaving out one evaluation costs about the same from noise over signal 7 on down.
    Without its fall, 20 karras steps of euler were 44 dB further away, and worse than noise.
    """
    noise = math.exp(-place)
    return 1.0 + (noise / STRONG_NOISE) ** 2 / (1.0 + (noise / PURE_NOISE) ** 3)


@dataclass(frozen=True)
class ForecastSettings:
    """How many evaluations are left out.

    Attributes:
        compute: share of the evaluations that are real, 0 to 1; 1 is off.
        first_steps: sampler steps at the beginning that are real, 1 or more.
        last_steps: sampler steps at the end that are real, 1 or more: they draw what nothing after them corrects.
        most_skips: forecasts in a row at most, 1 or more.

    Raises:
        ValueError: a number outside of its range.
    """

    compute: float = 0.6
    first_steps: int = 3
    last_steps: int = 1
    most_skips: int = 4

    def __post_init__(self) -> None:
        check_range("compute", self.compute, 0.0, 1.0)
        check_range("first_steps", self.first_steps, 1, 1000)
        check_range("last_steps", self.last_steps, 1, 1000)
        check_range("most_skips", self.most_skips, 1, 1000)


@dataclass
class BudgetController:
    """Says of one evaluation after another whether it is to be real.

    Attributes:
        settings: the budget and its limits.
        real: real evaluations so far.
        skipped: forecasts so far.
        in_a_row: forecasts since the last real evaluation.
        refused: forecasts that the budget wanted and the measured error forbade.
    """

    settings: ForecastSettings
    real: int = 0
    skipped: int = 0
    in_a_row: int = 0
    refused: int = 0
    _ratio: float | None = None
    _recent: float | None = None
    _place: float = 0.0
    _gathered: float = 0.0
    _span: float = 0.0

    def target(self, evaluations: int) -> int:
        """How many of as many evaluations may be real: the nearest to the share asked for."""
        return max(1, math.floor(self.settings.compute * evaluations + 0.5))

    def predicted(self, place: float) -> float:
        """The error to expect of a forecast at a place, as a share of the prediction's size; infinite if unknown.

        It grows with the root of the distance: measured errors are more those of a random walk than of a curve.
        """
        if self._ratio is None:
            return math.inf
        return self._ratio * math.sqrt(_step(place - self._place))

    def next_is_real(self, coming: Sequence[Evaluation]) -> bool:
        """Whether the first of the evaluations that are to come is real. Says nothing of what is done: see below."""
        now = coming[0]
        left = self.target(self.real + self.skipped + len(coming)) - self.real
        if now.must_be_real or left >= len(coming) or self._ratio is None or self._recent is None:
            return True
        if self.in_a_row >= self.settings.most_skips:
            return True
        if left > sum(one.must_be_real for one in coming) and self._spends(coming, left):
            return True
        if self._recent <= WORST_ERROR:
            return False
        self.refused += 1
        return True

    def skip(self, evaluation: Evaluation) -> None:
        """A forecast stood in place of an evaluation."""
        self._gathered += self._cost(evaluation, self._place)
        self.skipped += 1
        self.in_a_row += 1

    def spend(self, place: float) -> None:
        """An evaluation was real, at a half log-SNR."""
        self.real += 1
        self.in_a_row = 0
        self._gathered = 0.0
        self._span, self._place = place - self._place, place

    def learn(self, relative_error: float) -> None:
        """The forecast that would have stood in place of the last real evaluation was this far off.

        Args:
            relative_error: over the size of the truth; infinite or not a number forbids forecasts until a later
                evaluation knows better.
        """
        if not math.isfinite(relative_error):
            self._ratio = self._recent = math.inf
            return
        error = max(relative_error, _LEAST_COST)
        self._recent = _settled(self._recent, error)
        self._ratio = _settled(self._ratio, error / math.sqrt(_step(self._span)))

    def forget(self) -> None:
        """Errors measured so far say nothing of what comes: the latent is another one."""
        self._ratio = self._recent = None

    def _cost(self, evaluation: Evaluation, last: float) -> float:
        """What a forecast would put into the latent, up to the model's factor. Those in a row err in one direction."""
        return _step(evaluation.place - last) * error_profile(evaluation.place) * evaluation.weight

    def _spends(self, coming: Sequence[Evaluation], left: int) -> bool:
        """Whether the lowest threshold that leaves the budget whole has the first evaluation real."""
        low, high = 0.0, max(self._cost(one, self._place) for one in coming) + self._gathered + _LEAST_COST
        while self._run(coming, high)[0] > left:
            low, high = high, 2.0 * high
            if high > _NO_LIMIT:  # only the limit on forecasts in a row makes evaluations real: tighter than the budget
                return False
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self._run(coming, middle)[0] > left:
                low = middle
            else:
                high = middle
        return self._run(coming, high)[1]

    def _run(self, coming: Sequence[Evaluation], threshold: float) -> tuple[int, bool]:
        """Real evaluations that a threshold leads to from here, and whether the first is one."""
        last, gathered, in_a_row, real, first = self._place, self._gathered, self.in_a_row, 0, False
        for number, one in enumerate(coming):
            cost = self._cost(one, last)
            if one.must_be_real or in_a_row >= self.settings.most_skips or gathered + cost > threshold:
                real += 1
                last, gathered, in_a_row = one.place, 0.0, 0
                first = first or number == 0
            else:
                gathered += cost
                in_a_row += 1
        return real, first


def _step(distance: float) -> float:
    """No distance at all is none that a forecast bridges free of error: the latent is another one."""
    return max(abs(distance), _SHORTEST_STEP)


def _settled(known: float | None, new: float) -> float:
    """A running geometric mean; what was no number is forgotten."""
    if known is None or not math.isfinite(known):
        return new
    return known**_RATIO_REMEMBERED * new ** (1.0 - _RATIO_REMEMBERED)
