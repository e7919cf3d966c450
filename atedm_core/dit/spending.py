"""How to spend a budget of FLOPs on a transformer: how many evaluations are real, and how many tokens these compute.

Forecasts of whole evaluations and pruned ones err independently, and either errs faster the further it is driven. On
the small SD3 of the lab, at 20 and 28 steps and half of the FLOPs, the nearest to the full run was where each of the
two saves about the same share (`docs/cat_fidelity.md`); at 80 % tokens alone were nearer, and in between it mattered
little.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

LEAST_SHARE = 0.4
"""Of a run's FLOPs. Below, nothing was measured that came nearer to the full run than fewer steps."""
MOST_SHARE_TO_FORECAST = 0.7
"""Of a run's FLOPs: where more may be spent, tokens alone come nearer than with forecasts beside."""
FEWEST_TO_FORECAST = 16
"""Steps of a run: at 12 tokens alone come nearer than with forecasts beside, at 20 it is the other way round."""
FEWEST_TO_PRUNE = 8
"""Steps of a run: with fewer there is no time for turns, and nothing was measured."""

_RATIOS = tuple(hundredth / 100 for hundredth in range(20, 101))
_ROUNDING = 1e-9


@dataclass(frozen=True)
class TransformerSpending:
    """What to do in a run.

    Attributes:
        keep_ratio: share of tokens computed in every real evaluation after the warm-up, 0.2 to 1; 1 for all.
        compute: share of evaluations that are real; 1 for all.
        share: of the full run's FLOPs that is left.
    """

    keep_ratio: float
    compute: float
    share: float


def spend_on_transformer(
    speed_up: float, steps: int, least_real: int, warmup: int, cost_of: Callable[[float], float]
) -> TransformerSpending:
    """The way to a wanted speed-up in which forecasts and pruning save about the same; as fast as is worth it if less.

    Args:
        speed_up: how many times fewer FLOPs, 1 or more.
        steps: evaluations of the run.
        least_real: evaluations that no forecast can replace.
        warmup: real evaluations that compute all tokens, at the beginning.
        cost_of: share of an evaluation's FLOPs that is left at a keep ratio; rises with it, to 1 at 1.
    """
    share_wanted = max(1.0 / speed_up, LEAST_SHARE)
    budget = share_wanted * steps
    forecast = steps >= FEWEST_TO_FORECAST and share_wanted <= MOST_SHARE_TO_FORECAST
    found = []
    for real in range(min(least_real, steps) if forecast else steps, steps + 1):
        full = min(warmup, real)
        costs = {keep: cost_of(keep) for keep in _RATIOS} if real > full else {1.0: 1.0}
        spent = {keep: (full + (real - full) * cost) / steps for keep, cost in costs.items()}
        fitting = [keep for keep, share in spent.items() if share * steps <= budget + _ROUNDING]
        # where nothing is fast enough, the fastest
        keep = max(fitting, default=min(costs))
        apart = abs(math.log(costs[keep]) - math.log(real / steps))
        too_dear = 0.0 if fitting else spent[keep]
        found.append((too_dear, apart, TransformerSpending(keep, real / steps, spent[keep])))
    return min(found, key=lambda one: one[:2])[2]
