"""How to spend a budget of FLOPs on a run: how many evaluations to forecast, and how much to prune the others.

Both err by an amount that was measured beforehand, as a distance in dB from the full run's latent. The two errors are
of different origin, so their squares add; the cheapest sum that fits the budget wins. What was measured is the error
of forecasts over the share of real evaluations, by sampler and number of steps, and the error of token pruning over its
ratio, which hardly depends on either (`docs/forecasts.md`).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

SamplerGroup = Literal["one step", "multistep", "stochastic"]
"""ODE samplers that go by the last prediction alone, those that keep earlier ones, and those that add noise."""

PRUNING_ERROR: dict[float, float] = {
    0.25: 72.0,
    0.4: 67.0,
    0.5: 63.5,
    0.6: 60.5,
    0.66: 58.0,
    0.75: 52.0,
    0.82: 45.5,
    0.9: 35.0,
}
"""dB from the full run, by prune ratio, in all steps alike: between what 8 and 20 steps give on photographs."""
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)
FORECAST_ERROR: dict[SamplerGroup, dict[int, tuple[float, ...]]] = {
    "one step": {
        8: (12.0, 18.9, 26.5, 33.7, 40.5),
        12: (18.0, 26.0, 34.5, 41.0, 47.0),
        20: (31.7, 37.5, 46.7, 52.5, 57.0),
        50: (51.3, 56.3, 61.4, 68.5, 74.0),
    },
    "multistep": {
        8: (10.0, 15.7, 20.4, 27.2, 34.5),
        12: (16.0, 22.5, 28.5, 35.5, 42.0),
        20: (26.7, 33.1, 40.9, 48.0, 53.5),
        50: (48.0, 54.5, 58.5, 64.5, 70.0),
    },
    "stochastic": {
        8: (8.0, 9.5, 12.5, 15.5, 20.0),
        12: (10.5, 13.0, 16.5, 20.0, 25.0),
        20: (16.3, 19.3, 22.9, 27.0, 32.0),
        50: (29.5, 35.5, 41.0, 46.0, 50.0),
    },
}
"""dB from the full run where nothing is pruned, by steps of the run and share of real evaluations (`SHARES`).

The photographs' model, 4 captions: euler at 8, 20 and 50 steps, dpmpp_2m at 8 and 20, dpmpp_2m_sde at 20. Whole
evaluations reach only some of the shares, which are read off the line through those next to them. All at 12 steps is
read off between 8 and 20; what else was not measured there is what the demo model gave, less the 8 to 9 dB by which it
is nearer in everything.
"""

FEWER_STEPS_ERROR: dict[SamplerGroup, dict[int, tuple[float, ...]]] = {
    "one step": {
        8: (19.7, 22.5, 25.4, 28.6, 32.5),
        12: (21.0, 23.7, 27.0, 31.0, 35.5),
        20: (23.0, 25.4, 29.2, 34.0, 39.0),
        50: (35.1, 36.7, 40.9, 43.1, 46.0),
    },
    "multistep": {
        8: (18.6, 20.6, 23.2, 26.3, 30.0),
        12: (20.0, 22.2, 25.3, 29.2, 33.4),
        20: (21.6, 24.2, 27.9, 32.8, 37.5),
        50: (33.0, 35.0, 38.7, 41.0, 44.0),
    },
    "stochastic": {
        8: (11.0, 13.0, 14.0, 15.5, 18.0),
        12: (12.3, 15.0, 16.0, 17.9, 20.3),
        20: (13.9, 17.3, 18.4, 20.7, 23.0),
        50: (18.0, 19.5, 21.5, 23.0, 25.5),
    },
}
"""The same for a run of so many fewer steps: what nothing that is done here may be further from the full run than."""

_RATIOS = tuple(hundredth / 100 for hundredth in range(0, 91))
_ROUNDING = 1e-9
_FALL = 40.0  # dB for each halving of the shares below the last that was measured: forecasts end at some point


@dataclass(frozen=True)
class Spending:
    """What to do in a run.

    Attributes:
        prune_ratio: 0 to 0.9, share of tokens dropped in every evaluation; 0 for none.
        compute: share of evaluations that are real; 1 for all.
        speed_up: that the two reach together, by FLOPs.
        error: expected distance from the full run in dB; infinite where nothing is left out.
    """

    prune_ratio: float
    compute: float
    speed_up: float
    error: float


def forecast_error(group: SamplerGroup, steps: int, compute: float) -> float:
    """dB from the full run to expect of forecasts alone; on a line between what was measured, over the log of steps.

    Args:
        group: of samplers.
        steps: evaluations of the run.
        compute: share of them that is real, above 0; 1 is the full run.
    """
    return math.inf if compute >= 1.0 else _measured(FORECAST_ERROR[group], steps, compute)


def fewer_steps_error(group: SamplerGroup, steps: int, share: float) -> float:
    """dB from the full run to expect of taking a share of the steps instead; arguments as for `forecast_error`."""
    return math.inf if share >= 1.0 else _measured(FEWER_STEPS_ERROR[group], steps, share)


def _measured(table: dict[int, tuple[float, ...]], steps: int, compute: float) -> float:
    known = sorted(table)
    at = min(max(float(steps), known[0]), known[-1])
    upper = next(number for number in known if number >= at)
    lower = max(number for number in known if number <= at)
    part = 0.0 if upper == lower else math.log(at / lower) / math.log(upper / lower)
    low, high = _over_shares(table[lower], compute), _over_shares(table[upper], compute)
    return low + (high - low) * part


def pruning_error(ratio: float) -> float:
    """dB from the full run to expect of token pruning alone; infinite at 0."""
    if ratio <= 0.0:
        return math.inf
    ratios, values = list(PRUNING_ERROR), list(PRUNING_ERROR.values())
    # an error that falls with the ratio as it falls between the first two, to none at none
    first = values[0] + (ratios[0] - ratio) * 40.0
    return first if ratio < ratios[0] else _line(ratios, values, ratio)


def spend(
    speed_up: float,
    steps: int,
    group: SamplerGroup,
    least_real: int,
    cost_of: Callable[[float], float] | None = None,
) -> Spending:
    """The way to a wanted speed-up that comes nearest to the full run.

    Args:
        speed_up: how many times fewer FLOPs, 1 or more.
        steps: evaluations of the run.
        group: of its sampler.
        least_real: evaluations that no forecast can replace.
        cost_of: share of an evaluation's FLOPs that is left at a prune ratio; `None` for models that are not pruned.

    Returns:
        What comes nearest among all that is fast enough; where nothing is, the fastest. Nothing is done that fewer
        steps of the same cost do better.
    """
    budget = 1.0 / speed_up
    found = []
    ratios = _RATIOS if cost_of is not None else (0.0,)
    costs = {ratio: cost_of(ratio) if cost_of is not None and ratio > 0 else 1.0 for ratio in ratios}
    for (ratio, cost), real in itertools.product(costs.items(), range(min(least_real, steps), steps + 1)):
        # ratios make up for what whole evaluations cannot; without them the nearest number has to do
        fitting = budget / cost * steps + (0.5 if cost_of is None else _ROUNDING)
        left = real / steps * cost
        error = _sum(forecast_error(group, steps, real / steps), pruning_error(ratio))
        # what fewer steps do better is not worth doing: slower, then, and nearer
        if left < 1.0 and error < fewer_steps_error(group, steps, left):
            continue
        too_dear = 0.0 if real <= fitting else left
        found.append((too_dear, -error, Spending(ratio, real / steps, 1.0 / left, error)))
    return min(found, key=lambda one: one[:2])[2]


def _sum(first: float, second: float) -> float:
    """Two independent errors in dB as one."""
    power = 10 ** (-first / 10) + 10 ** (-second / 10)
    return math.inf if power == 0.0 else -10 * math.log10(power)


def _over_shares(values: Sequence[float], compute: float) -> float:
    if compute < SHARES[0]:
        return values[0] + _FALL * math.log2(compute / SHARES[0])
    if compute > SHARES[-1]:
        return values[-1] - 10 * math.log10((1.0 - compute) / (1.0 - SHARES[-1]))
    return _line(SHARES, values, compute)


def _line(places: Sequence[float], values: Sequence[float], at: float) -> float:
    right = min(max(bisect.bisect_left(places, at), 1), len(places) - 1)
    (before, after), (low, high) = (
        list(itertools.pairwise(places))[right - 1],
        list(itertools.pairwise(values))[right - 1],
    )
    return low + (high - low) * (at - before) / (after - before)
