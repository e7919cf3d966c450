"""What pruning itself costs: the share of a pruned step spent on ranking, choosing, gathering and filling in.

    python dev.py bench overhead [--model sdxl] [--size 1024] [--points "after first layer"]

The pack's own functions are timed where they are called, in whole steps of ComfyUI's sampler: by CUDA events on a GPU,
so that nothing waits, and by the clock elsewhere. Beside it stands how many operations they send to the device per
pruned attention block, views not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .. import host
from ..measure import save
from ..pack.atedm_core.tokens import TokenSubset
from ..pack.atedm_core.unet.ranking import RankTokens, rank_tokens
from ..pack.atedm_core.unet.settings import PRUNE_POINTS
from ..printing import show
from . import command
from .contenders import apply

PARTS = {
    "rank_states": "rank",
    "of": "rank",
    "select_tokens": "choose",
    "choose_stand_ins": "choose stand-ins",
    "recover": "fill in",
    "gather": "gather",
    "mean": "gather",
}
COLUMNS = tuple(dict.fromkeys(PARTS.values()))
STEPS = 4
TINY_SIZE = 128


class Stopwatch:
    """Time and operations of each part; a part called by another part counts as the outer one's."""

    def __init__(self, device: torch.device, counting: bool = False) -> None:
        self._device = device
        self._counting = counting
        self._inside = False
        self._marks: list[tuple[str, Any, Any]] = []
        self.operations: dict[str, int] = dict.fromkeys(COLUMNS, 0)
        self.blocks = 0

    def watched(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, with its time and operations noted."""

        @wraps(work)
        def watching(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return work(*args, **kwargs)
            self._inside = True
            self.blocks += part == "fill in"
            try:
                if self._counting:
                    with OperationCounter() as counter:
                        out = work(*args, **kwargs)
                    self.operations[part] += counter.operations
                    return out
                before = self._now()
                out = work(*args, **kwargs)
                self._marks.append((part, before, self._now()))
                return out
            finally:
                self._inside = False

        return watching

    def seconds(self) -> dict[str, float]:
        """What each part took so far, all calls together."""
        total = dict.fromkeys(COLUMNS, 0.0)
        for part, before, after in self._marks:
            total[part] += before.elapsed_time(after) / 1000 if self._device.type == "cuda" else after - before
        return total

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class OperationCounter(TorchDispatchMode):
    """Counts the operations that reach the device; views do not."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += not func.is_view
        return func(*args, **(kwargs or {}))


@contextmanager
def watching(stopwatch: Stopwatch) -> Iterator[None]:
    """While it lasts, every call of a part is watched, but for a ranking by attention: that comes in by an argument."""
    from ..pack.patches.unet import pruning_pass

    owners = {"of": pruning_pass.Directions, "gather": TokenSubset, "mean": TokenSubset}
    places = [(owners.get(name, pruning_pass), name) for name in PARTS]
    originals = [getattr(place, name) for place, name in places]
    for (place, name), original in zip(places, originals, strict=True):
        setattr(place, name, stopwatch.watched(PARTS[name], original))
    try:
        yield
    finally:
        for (place, name), original in zip(places, originals, strict=True):
            setattr(place, name, original)


def measure(model: Any, point: str, size: int, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Shares of a step by part, medians over rounds, and operations per pruned block."""

    def run(rank: RankTokens = rank_tokens) -> float:
        contender = apply(model, options.ratio, point, rank)
        # The first step is in the stopwatch and not in the seconds; a mean step stands in for it.
        steps = host.sample(contender, (size, size), STEPS, options.cfg, device)
        return statistics.mean(steps) * STEPS

    def watched_run(stopwatch: Stopwatch) -> float:
        with watching(stopwatch):
            return run(stopwatch.watched("rank", rank_tokens))

    run()
    shares: dict[str, list[float]] = {part: [] for part in COLUMNS}
    for _ in range(options.rounds):
        stopwatch = Stopwatch(device)
        total = watched_run(stopwatch)
        for part, spent in stopwatch.seconds().items():
            shares[part].append(spent / total)
    counter = Stopwatch(device, counting=True)
    watched_run(counter)
    parts = {part: statistics.median(found) for part, found in shares.items()}
    return {
        "point": point,
        "size": size,
        "shares": parts,
        "share": sum(parts.values()),
        "operations_per_block": {part: count / counter.blocks for part, count in counter.operations.items()},
    }


def main() -> None:
    """Parse, measure, print, save."""
    parser = command.parser(__doc__)
    parser.add_argument("--size", type=int, help="edge in pixels; default 512, or 1024 on a GPU")
    parser.add_argument("--points", nargs="+", choices=PRUNE_POINTS, default=list(PRUNE_POINTS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device, model = command.prepare(options)
    size = options.size or (TINY_SIZE if options.tiny else 1024 if device.type == "cuda" else 512)
    rows = [measure(model, point, size, options, device) for point in options.points]
    where = command.where(options, device, rounds=options.rounds)
    cells = []
    for row in rows:
        shares = [f"{row['shares'][part]:.1%}" for part in COLUMNS]
        operations = sum(row["operations_per_block"].values())
        cells.append([row["point"], *shares, f"{row['share']:.1%}", f"{operations:.0f}"])
    columns = ["tokens dropped", *COLUMNS, "together", "operations per block"]
    show(f"Share of a pruned step at {size} px that pruning itself takes", columns, cells, where)
    path = command.result_path("overhead", options, device, f"{size}px")
    print(f"written to {save(path, {'machine': where, 'rows': rows})}")


if __name__ == "__main__":
    main()
