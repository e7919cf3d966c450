"""What is compared with a full run of the U-Net: every method at each of the settings it is asked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from ... import peers
from ...pack.atedm_core.forecast_plan import ForecastSettings
from ...pack.atedm_core.unet.budget import share_left
from ...pack.atedm_core.unet.settings import DEFAULT_SETTINGS
from ..cases import Sampling
from . import caches
from .sdxl import SDXL_LATENT, SDXL_SCHEDULE, sdxl

COSTS = (0.75, 0.6, 0.5, 0.4, 0.3)
OWN = ("AT-EDM", "forecasts", "auto")
PEERS = ("easy_cache", "lazy_cache", "taylorseer", "spectrum", "dbcache")
METHODS = ("fewer steps", *PEERS, *OWN)
TITLES = {
    "easy_cache": "EasyCache",
    "lazy_cache": "LazyCache",
    "taylorseer": "TaylorSeer-Lite",
    "spectrum": "Spectrum",
    "dbcache": "DBCache's gate",
    "auto": "AT-EDM Auto",
}
THRESHOLDS = {
    "easy_cache": (0.05, 0.1, 0.2, 0.35),
    "lazy_cache": (0.01, 0.03, 0.08),
    "dbcache": (0.05, 0.1, 0.15, 0.25),
}
INTERVALS, ORDERS = (2, 3, 4), (1, 2)
GROWTHS = (0.0, 0.25, 0.75, 3.0)
MAX_PRUNED = 0.95


@dataclass(frozen=True)
class Contender:
    """A way to draw the pictures of a run of `sampling` for less: `make` puts it on the model, for one run."""

    method: str
    setting: float
    sampling: Sampling
    make: Callable[[Any], Any] | None = None


def contenders(full: Sampling) -> Iterator[Contender]:
    """The full run first, then all that is compared with it."""
    from ...pack.patches.steps.apply import apply_forecast
    from ...pack.patches.steps.auto import apply_auto
    from ...pack.patches.unet.apply import apply_atedm

    yield Contender("full", 1.0, full)
    for cost in COSTS:
        yield Contender("fewer steps", fewer := max(1, round(cost * full.steps)), replace(full, steps=fewer))
        yield Contender("forecasts", cost, full, lambda model, at=cost: apply_forecast(model, ForecastSettings(at)))
        yield Contender("auto", 1 / cost, full, lambda model, at=cost: apply_auto(model, 1 / at, cost_of=sdxl_share))
        if (ratio := ratio_at(cost)) is not None:
            schedule = replace(SDXL_SCHEDULE, prune_ratio=ratio)
            yield Contender("AT-EDM", ratio, full, lambda model, at=schedule: apply_atedm(model, at, DEFAULT_SETTINGS))
    for name, thresholds in THRESHOLDS.items():
        make = getattr(caches if name == "dbcache" else peers, name)
        for threshold in thresholds:
            yield Contender(name, threshold, full, partial(make, threshold=threshold))
    for interval in INTERVALS:
        for order in ORDERS:
            make = partial(caches.taylorseer, interval=interval, order=order)
            yield Contender("taylorseer", interval + order / 10, full, make)
    for growth in GROWTHS:
        yield Contender("spectrum", growth, full, partial(caches.spectrum, growth=growth))


def sdxl_share(ratio: float) -> float:
    """What a prune ratio leaves of an evaluation's FLOPs on SDXL, which costs are counted on."""
    return share_left(sdxl(), SDXL_LATENT, ratio)


@cache
def ratio_at(cost: float) -> float | None:
    """The prune ratio, to three digits, that leaves no more than this share on SDXL; `None` where none does."""
    low, high = 0, round(1000 * MAX_PRUNED)
    if sdxl_share(high / 1000) > cost:
        return None
    while low < high:
        middle = (low + high) // 2
        if sdxl_share(middle / 1000) <= cost:
            high = middle
        else:
            low = middle + 1
    return low / 1000
