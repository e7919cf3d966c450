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
from dataclasses import dataclass, field, replace

from .checks import check_range
from .forecast_schedule import Evaluation

LITTLE_NOISE, STRONG_NOISE, PURE_NOISE = 0.4, 8.0, 12.0
"""Noise over signal below which forecasts cost less, from which on they cost more, and from which on less again.

Between the last two a model decides what to draw. Where all is noise its prediction hardly changes, and an error in it
is small beside the noise: schedules that spend half of their steps there (karras, exponential, with zero-terminal SNR)
must not spend the budget there too."""
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
    """How much more a forecast's error costs at a half log-SNR than elsewhere, before anything was measured.

    Under little noise all but the finest details are decided, and predictions hardly move: schedules that end in many
    small steps (karras, exponential) can leave those out for nearly nothing. Without the fall there, 20 steps of karras
    over SDXL's noise levels with half of them real were 16 dB further from the full run with euler and 11 with
    dpmpp_2m, exponential 7 and 6, `normal` 2 and 3; without the fall in pure noise, 20 karras steps of euler on a model
    with zero-terminal SNR were 44 dB further, and worse than noise.
    """
    noise = math.exp(-place)
    return _undecided(place) * (1.0 + (noise / STRONG_NOISE) ** 2 / (1.0 + (noise / PURE_NOISE) ** 3))


def _undecided(place: float) -> float:
    """How much of what a prediction says may still change, 0 to 1."""
    noise = math.exp(-place)
    return noise / (LITTLE_NOISE + noise)


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
        self._gathered += _cost(evaluation, self._place)
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

    def _spends(self, coming: Sequence[Evaluation], left: int) -> bool:
        """Whether the lowest threshold that leaves the budget whole has the first evaluation real."""
        begun = _Walk(self._place, self._gathered, self.in_a_row)
        walk = _cheapest_walk(coming, left, self.settings.most_skips, begun)
        # only the limit on forecasts in a row makes evaluations real: tighter than the budget
        return walk is not None and walk.first


def planned_nearness(
    coming: Sequence[Evaluation], real: int, stochastic: bool = False, most_skips: int = ForecastSettings.most_skips
) -> float:
    """How little forecasts of all but `real` evaluations are to put into the latent, in dB; infinite for nothing.

    Up to a factor that is the model's, and as much as can be known before a run. Forecasts in a row err in one
    direction, those with a real evaluation between them do not. Across fresh noise a prediction wanders, whatever the
    sampler's step with it: there errors are independent, and add up as their squares.

    Args:
        coming: all evaluations of a run, one or more.
        real: how many of them are real; where `coming` or the limit on forecasts in a row demand more, those are.
        stochastic: the sampler adds noise of its own.
        most_skips: forecasts in a row at most.
    """
    begun = _Walk(coming[0].place)
    walk = _cheapest_walk(coming, real, most_skips, begun)
    walk = walk or _walk(coming, math.inf, most_skips, begun)
    total = walk.wandered if stochastic else sum(gap**2 for gap in walk.gaps)
    return -10.0 * math.log10(total) if total > 0.0 else math.inf


@dataclass
class _Walk:
    """Evaluations gone through with a threshold on what gathers.

    Attributes:
        place: of the last real one, half the log-SNR.
        gathered: what forecasts have put into the latent since.
        in_a_row: how many.
        real: real ones so far.
        first: whether the first was real.
        gaps: what was gathered between one real evaluation and the next.
        wandered: squared distances from each forecast to the last real evaluation, less under little noise, together.
    """

    place: float
    gathered: float = 0.0
    in_a_row: int = 0
    real: int = 0
    first: bool = False
    gaps: list[float] = field(default_factory=list)
    wandered: float = 0.0


def _walk(coming: Sequence[Evaluation], threshold: float, most_skips: int, begun: _Walk) -> _Walk:
    """From where it has `begun` to the end of a run."""
    walk = replace(begun, gaps=[])
    for number, one in enumerate(coming):
        cost = _cost(one, walk.place)
        if one.must_be_real or walk.in_a_row >= most_skips or walk.gathered + cost > threshold:
            if walk.in_a_row:
                walk.gaps.append(walk.gathered)
            walk.real += 1
            walk.place, walk.gathered, walk.in_a_row = one.place, 0.0, 0
            walk.first = walk.first or number == 0
        else:
            walk.gathered += cost
            walk.in_a_row += 1
            walk.wandered += (one.place - walk.place) ** 2 * _undecided(one.place)
    if walk.in_a_row:
        walk.gaps.append(walk.gathered)
    return walk


def _cheapest_walk(coming: Sequence[Evaluation], most_real: int, most_skips: int, begun: _Walk) -> _Walk | None:
    """With the lowest threshold that leaves so many evaluations real at most; `None` where none does."""
    low, high = 0.0, max(_cost(one, begun.place) for one in coming) + begun.gathered + _LEAST_COST
    while _walk(coming, high, most_skips, begun).real > most_real:
        low, high = high, 2.0 * high
        if high > _NO_LIMIT:
            return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _walk(coming, middle, most_skips, begun).real <= most_real else (middle, high)
    return _walk(coming, high, most_skips, begun)


def _cost(evaluation: Evaluation, last: float) -> float:
    """What a forecast would put into the latent, up to the model's factor. Those in a row err in one direction."""
    return _step(evaluation.place - last) * error_profile(evaluation.place) * evaluation.weight


def _step(distance: float) -> float:
    """No distance at all is none that a forecast bridges free of error: the latent is another one."""
    return max(abs(distance), _SHORTEST_STEP)


def _settled(known: float | None, new: float) -> float:
    """A running geometric mean; what was no number is forgotten."""
    if known is None or not math.isfinite(known):
        return new
    return known**_RATIO_REMEMBERED * new ** (1.0 - _RATIO_REMEMBERED)
