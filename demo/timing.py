"""How long sampling takes with and without pruning: in turns, so that both meet the same machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from devtools.client import Prompt, execution_seconds
from devtools.server import Server

FIRST_SEED = 1000  # seeds of their own: ComfyUI would not run the same workflow again


@dataclass(frozen=True)
class Times:
    """Seconds of each repeat, and what they say."""

    full: tuple[float, ...]
    pruned: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Full over pruned, per pair: above 1 is faster with pruning."""
        return [full / pruned for full, pruned in zip(self.full, self.pruned, strict=True)]

    def summary(self) -> dict[str, object]:
        """The medians and everything they came from."""
        return {
            "sampling_seconds_full": statistics.median(self.full),
            "sampling_seconds_pruned": statistics.median(self.pruned),
            "speedup_median": statistics.median(self.ratios),
            "speedup_range": [min(self.ratios), max(self.ratios)],
            "repeats": len(self.full),
            "seconds_full": list(self.full),
            "seconds_pruned": list(self.pruned),
        }


def measure(server: Server, make: Callable[[int, float | None], Prompt], ratio: float, repeats: int) -> Times:
    """Time `make(seed, ratio)` against `make(seed, None)`; the first pair warms up and is not counted."""
    full, pruned = [], []
    for repeat in range(repeats + 1):
        seed = FIRST_SEED + repeat
        # the order changes from pair to pair, so that a machine getting slower favours neither
        order = (None, ratio) if repeat % 2 == 0 else (ratio, None)
        seconds = {one: execution_seconds(server.run(make(seed, one))) for one in order}
        if repeat > 0:
            full.append(seconds[None])
            pruned.append(seconds[ratio])
    return Times(tuple(full), tuple(pruned))
