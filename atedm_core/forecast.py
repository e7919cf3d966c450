"""Forecasts of a model's prediction from its last real ones, and what a measured error says about the next.

A sampler asks a model for the clean latent at falling noise levels. As a function of half the log-SNR, which
DPM-Solver++ goes along (arXiv 2211.01095, section 4), that prediction is smooth where the latent is not, so it can be
continued from Newton's divided differences of the last real ones. How far a difference may be trusted depends on the
sampler: an ODE's predictions go on as they went, an SDE's have no memory of their slope. So each difference has a
weight, fitted at every real evaluation, where the truth is known exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, stack

MOST_NOISE = -5.3
LEAST_NOISE = 9.2
"""Where half the log-SNR ends. Past these the prediction is that of pure noise, or of no noise, and does not change."""
PRIOR_WEIGHTS = (0.45, 0.25)
"""Of the last divided difference and of the one before, until a run has measured its own."""

_PRIOR_STRENGTH = 1.0
_REMEMBERED = 0.5
_WEIGHT_LIMITS = (-0.5, 1.2)
_SAME_PLACE = 1e-4


def half_log_snr(sigma: float, flow: bool) -> float:
    """log(signal / noise) at a noise level, within `MOST_NOISE` and `LEAST_NOISE`.

    Args:
        sigma: 0 or more; up to 1 for flow models. Zero-terminal SNR begins at thousands, flow models at 1.
        flow: the latent is `(1 - sigma) * clean + sigma * noise`; otherwise it is `clean + sigma * noise`.
    """
    signal = 1.0 - sigma if flow else 1.0
    if sigma <= 0.0:
        return LEAST_NOISE
    if signal <= 0.0:
        return MOST_NOISE
    return min(max(math.log(signal / sigma), MOST_NOISE), LEAST_NOISE)


@dataclass(frozen=True)
class Measured:
    """What a real evaluation says of the forecast that would have stood in its place.

    Attributes:
        error: root mean square of forecast minus truth.
        size: root mean square of the truth.
    """

    error: float
    size: float

    @property
    def relative(self) -> float:
        """The error over the size; infinite if either is no number."""
        if not (math.isfinite(self.error) and math.isfinite(self.size)):
            return math.inf
        return self.error / self.size if self.size > 0 else 0.0


@dataclass
class PredictionHistory:
    """The last three real predictions `[B, ...]` with their half log-SNR, and how to go on from them.

    Numbers are read back from the device at the next use, not where they are made: by then they are there.
    """

    _real: list[tuple[float, Tensor]] = field(default_factory=list)
    _products: Tensor | None = None
    _asked: tuple[int, tuple[float, ...]] = (0, ())
    _normal: list[list[float]] | None = None
    _weights: tuple[float, ...] = PRIOR_WEIGHTS

    def __len__(self) -> int:
        return len(self._real)

    @property
    def place(self) -> float:
        """Half the log-SNR of the last real prediction."""
        return self._real[-1][0]

    def fits(self, like: Tensor) -> bool:
        """Whether a prediction of this shape, type and device continues the history."""
        if not self._real:
            return True
        last = self._real[-1][1]
        return last.shape == like.shape and last.dtype == like.dtype and last.device == like.device

    def forecast(self, place: float) -> Tensor:
        """The prediction to expect at `place`, which is half a log-SNR; needs one real prediction at least."""
        last_place, result = self._real[-1]
        for weight, difference in zip(self._weights, self._differences(), strict=False):
            result = result + (weight * (place - last_place)) * difference
        return result

    def observe(self, place: float, truth: Tensor) -> None:
        """Add a real prediction; measures the forecast that would have stood in its place."""
        if self._real:
            step = place - self.place
            changes = [step * one for one in self._differences()] if abs(step) > _SAME_PLACE else []
            moved = truth - self._real[-1][1]
            vectors = [moved.float(), *(one.float() for one in changes), truth.float()]
            pairs = [(i, j) for i in range(len(vectors) - 1) for j in range(i, len(vectors) - 1)]
            products = [(vectors[i] * vectors[j]).mean() for i, j in pairs]
            self._products = stack([*products, (vectors[-1] * vectors[-1]).mean()])
            self._asked = (len(changes), self._weights)
        if self._real and abs(place - self.place) <= _SAME_PLACE:
            self._real.pop()
        self._real.append((place, truth))
        del self._real[:-3]

    def measured(self) -> Measured | None:
        """The error measured by the last `observe`, and weights fitted to it; `None` if there was nothing new."""
        if self._products is None:
            return None
        values: list[float] = self._products.double().tolist()
        self._products = None
        count, weights = self._asked
        size = math.sqrt(max(values[-1], 0.0)) if math.isfinite(values[-1]) else math.nan
        gram = _symmetric(values[:-1], count + 1)
        error = gram[0][0]
        for i in range(count):
            error -= 2 * weights[i] * gram[0][i + 1]
            error += sum(weights[i] * weights[j] * gram[i + 1][j + 1] for j in range(count))
        if count and math.isfinite(error):
            self._fit(gram, count)
        return Measured(math.sqrt(max(error, 0.0)) if math.isfinite(error) else math.nan, size)

    def repayment(self, owed: float, place: float, truth: Tensor) -> Tensor:
        """How far off the forecasts since the last real prediction were together, given the truth at `place`.

        The truth at a forecast's place is read off the line from the last real prediction to this one, which the
        forecast could not know. To be called before `observe`.

        Args:
            owed: the sum over forecasts of their weight in the sampler's result, over that of this evaluation, times
                their distance in half log-SNR from the last real prediction.
            place: of this evaluation.
            truth: the prediction here.
        """
        last_place, last = self._real[-1]
        result = (truth - last) * (-owed / (place - last_place))
        for weight, difference in zip(self._weights, self._differences(), strict=False):
            result = result + (weight * owed) * difference
        return result

    def reset(self) -> None:
        """Free everything."""
        self._real.clear()
        self._products = None
        self._normal = None
        self._weights = PRIOR_WEIGHTS

    def _differences(self) -> list[Tensor]:
        """First divided differences, the latest first."""
        pairs = zip(reversed(self._real[1:]), reversed(self._real[:-1]), strict=True)
        return [(later - earlier) / (at - before) for (at, later), (before, earlier) in pairs]

    def _fit(self, gram: list[list[float]], count: int) -> None:
        """Weights by ridge regression towards the prior, older evaluations counting half as much each."""
        scale = sum(gram[i + 1][i + 1] for i in range(count)) / count
        if scale <= 0.0:
            return
        new = [[0.0] * 3 for _ in range(2)]
        for i in range(count):
            new[i][2] = gram[0][i + 1] / scale
            for j in range(count):
                new[i][j] = gram[i + 1][j + 1] / scale
        old = self._normal or [[0.0] * 3 for _ in range(2)]
        self._normal = [
            [_REMEMBERED * a + b for a, b in zip(*rows, strict=True)] for rows in zip(old, new, strict=True)
        ]
        self._weights = _ridge(self._normal)


def _symmetric(upper: list[float], size: int) -> list[list[float]]:
    numbers = iter(upper)
    full = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i, size):
            full[i][j] = full[j][i] = next(numbers)
    return full


def _ridge(normal: list[list[float]]) -> tuple[float, float]:
    (a, b, x), (_, d, y) = normal
    a, d = a + _PRIOR_STRENGTH, d + _PRIOR_STRENGTH
    x, y = x + _PRIOR_STRENGTH * PRIOR_WEIGHTS[0], y + _PRIOR_STRENGTH * PRIOR_WEIGHTS[1]
    low, high = _WEIGHT_LIMITS
    determinant = a * d - b * b  # at least 1: a Gram matrix and the identity
    first, second = (d * x - b * y) / determinant, (a * y - b * x) / determinant
    return (min(max(first, low), high), min(max(second, low), high))
