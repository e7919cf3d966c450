"""How to spend a budget of FLOPs on a transformer: how many evaluations are real, and how many tokens these compute.

On the two small SD3 of the lab (`docs/cat_fidelity.md`), with samplers that add no noise and time enough for forecasts,
these alone came nearest to the full run as long as three fifths of the evaluations could be real. With fewer they miss
the turns that a picture takes early, so what is to be saved beyond that is saved by tokens. Where a sampler adds noise
in every step, or takes few, tokens alone came nearer, with every other step whole while the budget allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .schedule import DEFAULT_SCHEDULE, CATSchedule

LEAST_SHARE = 0.4
"""Of a run's FLOPs. Below, nothing was measured that came nearer to the full run than fewer steps."""
LEAST_REAL = 0.6
"""Of the evaluations, where some are forecast."""
FEWEST_TO_FORECAST = 16
"""Steps of a run: at 12 tokens alone come nearer than forecasts, at 20 it is the other way round."""
FEWEST_TO_PRUNE = 8
"""Steps of a run: with fewer there is no time for turns, and nothing was measured."""

_RATIOS = tuple(hundredth / 100 for hundredth in range(10, 101))
"""A tenth of the tokens between whole steps was nearer than fewer steps on both models; less was not measured."""
_LEAST_WITHOUT_REFRESHES = 0.2
_ROUNDING = 1e-9


@dataclass(frozen=True)
class TransformerSpending:
    """What to do in a run.

    Attributes:
        keep_ratio: share of tokens computed in every real evaluation that is pruned, 0.1 to 1; 1 for all.
        compute: share of evaluations that are real; 1 for all.
        share: of the full run's FLOPs that is left.
        schedule: which of the real evaluations compute all tokens.
    """

    keep_ratio: float
    compute: float
    share: float
    schedule: CATSchedule = DEFAULT_SCHEDULE


def spend_on_transformer(
    speed_up: float, steps: int, least_real: int, cost_of: Callable[[float], float], *, settled: int = 0
) -> TransformerSpending:
    """What came nearest to the full run at a wanted speed-up; as fast as is worth it if less.

    Forecasts alone come in whole evaluations: the largest number that the budget pays for.

    Args:
        speed_up: how many times fewer FLOPs, 1 or more.
        steps: evaluations of the run.
        least_real: evaluations that no forecast can replace; as many as `steps` where none is worth it.
        cost_of: share of an evaluation's FLOPs that is left at a keep ratio; rises with it, to 1 at 1.
        settled: see `CATSchedule.settled_steps`.
    """
    budget = max(1.0 / speed_up, LEAST_SHARE) * steps + _ROUNDING
    every_other = replace(DEFAULT_SCHEDULE, settled_steps=settled)
    never = replace(every_other, refresh_interval=0)
    if steps >= FEWEST_TO_FORECAST and least_real < steps:
        real = max(least_real, round(LEAST_REAL * steps), int(budget))
        return _fill(
            budget, steps, real, min(never.warmup_steps(steps), real), never, cost_of, _LEAST_WITHOUT_REFRESHES
        )
    full = steps - every_other.pruned_steps(steps)
    found = _fill(budget, steps, steps, full, every_other, cost_of)
    if found.share * steps <= budget:
        return found
    return _fill(budget, steps, steps, min(never.warmup_steps(steps), steps), never, cost_of, _LEAST_WITHOUT_REFRESHES)


def _fill(
    budget: float,
    steps: int,
    real: int,
    full: int,
    schedule: CATSchedule,
    cost_of: Callable[[float], float],
    least: float = _RATIOS[0],
) -> TransformerSpending:
    """With the largest keep ratio that fits, the least if none does; `full` of the real evaluations are not pruned."""
    ratios = [ratio for ratio in _RATIOS if ratio >= least] if real > full else [1.0]
    spent = {ratio: full + (real - full) * cost_of(ratio) for ratio in ratios}
    keep = max((ratio for ratio in ratios if spent[ratio] <= budget), default=ratios[0])
    return TransformerSpending(keep, real / steps, spent[keep] / steps, schedule)
