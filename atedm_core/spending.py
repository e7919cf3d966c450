"""How to spend a budget of FLOPs on a run: how many evaluations to forecast, and how much to prune the others.

Both err by an amount that was measured beforehand, as a distance in dB from the full run's latent. The two errors are
of different origin, so their squares add; the cheapest sum that fits the budget wins. What was measured is the error
of token pruning over its ratio, which hardly depends on sampler, steps or schedule, and that of forecasts over what the
plan for them says: where a schedule puts its steps matters as much as how many there are (`docs/forecasts.md`).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .forecast_plan import planned_nearness
from .forecast_schedule import Evaluation

SamplerGroup = Literal["one step", "multistep", "stochastic"]
"""ODE samplers that go by the last prediction alone, those that keep earlier ones, and those that add noise."""

PRUNING_ERROR: dict[float, float] = {
    0.25: 81.0,
    0.4: 73.0,
    0.5: 68.5,
    0.6: 65.5,
    0.66: 63.0,
    0.75: 56.5,
    0.82: 47.0,
    0.9: 32.5,
}
"""dB from the full run, by prune ratio, in all steps alike: between what 8 and 20 steps give on photographs."""
FORECAST_ERROR: dict[SamplerGroup, tuple[tuple[float, float], ...]] = {
    "one step": (
        *((-20.0, 12.0), (-7.0, 20.0), (3.0, 27.5), (8.0, 33.0), (12.0, 41.0), (18.0, 48.5)),
        *((26.0, 59.0), (31.0, 64.0), (38.0, 75.5)),
    ),
    "multistep": ((-18.0, 15.5), (-4.0, 22.0), (0.0, 28.0), (3.0, 33.0), (7.0, 38.5), (15.0, 50.0), (32.0, 74.0)),
    "stochastic": ((-9.0, 14.5), (-2.0, 17.0), (0.5, 21.0), (4.0, 26.0), (7.0, 31.5), (11.5, 37.5), (20.0, 51.0)),
}
"""dB from the full run where nothing is pruned, by `forecast_plan.planned_nearness`: pairs of that and of this.

The photographs' model, 4 captions, 80 to 40 % of the evaluations real: euler and dpmpp_2m at 20 steps of normal, beta,
sgm_uniform, and karras and exponential over SDXL's noise levels, normal and karras at 8, 30 and 50 steps as well;
dpmpp_2m_sde and euler_ancestral at 8, 20 and 30 steps of normal, karras and exponential. The lines pass between what
was measured, which is 2.3 to 2.9 dB from them in the root mean square and 7.3 at most.
"""
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)
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
"""dB from the full run of a run of so many fewer steps on the schedule `normal`, by steps of the full run and `SHARES`.

What nothing that is done here may be further from the full run than. The photographs' model, 4 captions: euler at 8, 20
and 50 steps, dpmpp_2m at 8 and 20, dpmpp_2m_sde at 20. All at 12 is read off between 8 and 20; what else was not
measured there is what the demo model gave, less the 8 to 9 dB by which it is nearer in everything.
"""
USUAL_SHARE = 0.6
USUAL_PLAN: dict[bool, dict[int, float]] = {
    False: {8: 3.3, 12: 7.5, 20: 15.0, 30: 21.2, 50: 28.1},
    True: {8: -4.1, 12: 0.1, 20: 8.6, 30: 14.8, 50: 21.9},
}
"""`planned_nearness` at `USUAL_SHARE` on `normal`, by whether a sampler keeps earlier predictions, and steps.

What a schedule is harder by for forecasts, fewer steps are taken to be further by on it: 20 steps of karras with
zero-terminal SNR by 9 to 10 dB for both; over SDXL's levels fewer steps are nearer than that by up to 8.
"""

_PLANNED_STEPS = 20_000  # of all plans together: a run of a thousand steps is not planned to the step
_FREE = 90.0  # dB: what is nearer than that is not told apart
_RATIOS = tuple(hundredth / 100 for hundredth in range(0, 91))
_ROUNDING = 1e-9
_OVER = 0.02  # of the budget, for forecasts alone: of 50 steps at 75 %, 37 evaluations are 2.5 dB further than 38
_FALL = 40.0  # dB for each halving of the shares below the last that was measured: forecasts end at some point


@dataclass(frozen=True)
class Spending:
    """What to do in a run.

    Attributes:
        prune_ratio: 0 to 0.9, share of tokens dropped in every evaluation; 0 for none.
        compute: share of evaluations that are real; 1 for all.
        speed_up: that the two reach together, by FLOPs.
        error: expected distance from the full run in dB, to a hundredth of the ratio; infinite where nothing is left
            out.
    """

    prune_ratio: float
    compute: float
    speed_up: float
    error: float


def forecast_error(group: SamplerGroup, planned: float) -> float:
    """dB from the full run to expect of forecasts alone.

    Args:
        group: of samplers.
        planned: what `forecast_plan.planned_nearness` says of them.
    """
    places, values = zip(*FORECAST_ERROR[group], strict=True)
    return min(_line(places, values, min(planned, _FREE)), _FREE)


def fewer_steps_error(group: SamplerGroup, steps: int, share: float, harder: float = 0.0) -> float:
    """dB from the full run to expect of taking a share of the steps instead.

    Args:
        group: of samplers.
        steps: of the full run.
        share: of them, above 0; 1 is the full run.
        harder: dB by which the run's schedule is further from its full run than `normal`.
    """
    return math.inf if share >= 1.0 else _over_steps(FEWER_STEPS_ERROR[group], steps, share) - harder


def harder_than_usual(coming: Sequence[Evaluation], multistep: bool) -> float:
    """dB by which forecasts, and fewer steps, are further from a full run on its schedule than on `normal`."""
    steps = len(coming)
    real = max(round(USUAL_SHARE * steps), sum(one.must_be_real for one in coming))
    planned = planned_nearness(coming, real)
    if math.isinf(planned):  # hardly any steps: all schedules are alike
        return 0.0
    usual = USUAL_PLAN[multistep]
    return _between(usual, steps, lambda known: usual[known]) - planned


def _over_steps(table: dict[int, tuple[float, ...]], steps: int, share: float) -> float:
    return _between(table, steps, lambda known: _over_shares(table[known], share))


def _between(known: Iterable[int], steps: int, value_at: Callable[[int], float]) -> float:
    """On a line over the logarithm of steps, between the nearest numbers of them that are known."""
    numbers = sorted(known)
    at = min(max(float(steps), numbers[0]), numbers[-1])
    upper = next(number for number in numbers if number >= at)
    lower = max(number for number in numbers if number <= at)
    part = 0.0 if upper == lower else math.log(at / lower) / math.log(upper / lower)
    low, high = value_at(lower), value_at(upper)
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
    coming: Sequence[Evaluation],
    group: SamplerGroup,
    multistep: bool,
    cost_of: Callable[[float], float] | None = None,
) -> Spending:
    """The way to a wanted speed-up that comes nearest to the full run.

    Args:
        speed_up: how many times fewer FLOPs, 1 or more.
        coming: all evaluations of the run, one or more.
        group: of its sampler.
        multistep: whether that keeps earlier predictions.
        cost_of: share of an evaluation's FLOPs that is left at a prune ratio; `None` for models that are not pruned.

    Returns:
        What comes nearest among all that is fast enough; where nothing is, the fastest. Nothing is done that fewer
        steps of the same cost do better.
    """
    steps, least_real, budget = len(coming), sum(one.must_be_real for one in coming), 1.0 / speed_up
    harder = harder_than_usual(coming, multistep)
    numbers = {*range(least_real, steps, 1 + steps**2 // _PLANNED_STEPS), *_whole_numbers_by(budget * steps)}
    forecasts = {
        real: forecast_error(group, planned_nearness(coming, real, group == "stochastic"))
        for real in sorted(numbers)
        if least_real <= real < steps
    } | {steps: math.inf}
    found = []
    ratios = _RATIOS if cost_of is not None else (0.0,)
    costs = {ratio: cost_of(ratio) if cost_of is not None and ratio > 0 else 1.0 for ratio in ratios}
    for (ratio, cost), real in itertools.product(costs.items(), forecasts):
        # ratios make up for what whole evaluations cannot; without them the nearest number has to do
        over = 0.5 if cost_of is None else min(0.5, _OVER * budget * steps) if ratio == 0.0 else 0.0
        fitting = budget / cost * steps + over + _ROUNDING
        left = real / steps * cost
        error = _sum(forecasts[real], pruning_error(ratio))
        # what fewer steps do better is not worth doing: slower, then, and nearer
        if left < 1.0 and error < fewer_steps_error(group, steps, left, harder):
            continue
        too_dear = 0.0 if real <= fitting else left
        # of what cannot be told apart, what the budget pays for
        found.append((too_dear, -error, -left, Spending(ratio, real / steps, 1.0 / left, error)))
    best = min(found, key=lambda one: one[:3])[3]
    return best if cost_of is None else _no_more_than_needed(best, budget, cost_of)


def _whole_numbers_by(number: float) -> tuple[int, int]:
    return math.floor(number), math.ceil(number)


def _no_more_than_needed(found: Spending, budget: float, cost_of: Callable[[float], float]) -> Spending:
    """The same with the smallest prune ratio, to four digits, that meets the budget: what AT-EDM Budget would plan."""
    high = round(found.prune_ratio * 10_000)
    low, most = max(high - 100, 0), budget / found.compute + _ROUNDING
    if cost_of(high / 10_000) > most or found.prune_ratio <= 0.0:  # nothing is fast enough, or nothing is pruned
        return found
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cost_of(middle / 10_000) <= most else (middle + 1, high)
    ratio = high / 10_000
    cost = cost_of(ratio) if ratio > 0.0 else 1.0
    return replace(found, prune_ratio=ratio, speed_up=1.0 / (found.compute * cost))


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
    """Through the points next to `at`; beyond the ends along the first and the last piece."""
    right = min(max(bisect.bisect_left(places, at), 1), len(places) - 1)
    (before, after), (low, high) = (
        list(itertools.pairwise(places))[right - 1],
        list(itertools.pairwise(values))[right - 1],
    )
    return low + (high - low) * (at - before) / (after - before)
