"""What a step of SDXL at 1024 px gains on this machine: its layers are timed here, full and pruned, and put together.

    python -m demo.sdxl [--seconds 45]

The layers are ComfyUI's own with random weights, on which speed does not depend: one attention block and one residual
block of convolutions per level, a few hundred MB, on the device and in the precision that ComfyUI would choose for
SDXL. A step is the sum of as many as SDXL has; convolutions are scaled by their FLOPs. Full and pruned blocks take
turns, and the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from atedm_core.unet.schedule import DEFAULT_RATIO
from devtools.console import say

from .sdxl_layers import Layers, Part, chosen_device, name_of

SIZE = 1024
SECONDS = 45.0
MOST_ROUNDS = 5
LEAST_SAMPLE = 0.1  # seconds; a part that is faster is called several times for one sample
CPU_WARM_UP = 256  # pixels: the first call of a kind is slow at any size, and on a CPU a full-size one takes seconds


@dataclass(frozen=True)
class Step:
    """Seconds that a whole step takes, put together from one round."""

    full: float
    pruned: float


def together(parts: list[Part], seconds: dict[tuple[str, bool], float]) -> Step:
    """A step from the seconds of its parts, by (name, pruned)."""
    full = sum(part.count * seconds[part.name, False] for part in parts)
    pruned = sum(part.count * seconds[part.name, part.pruned is not None] for part in parts)
    return Step(full, pruned)


def summary(steps: list[Step]) -> dict[str, Any]:
    """Medians over rounds, and the median of each round's ratio."""
    ratios = [step.full / step.pruned for step in steps]
    return {
        "seconds_full": statistics.median(step.full for step in steps),
        "seconds_pruned": statistics.median(step.pruned for step in steps),
        "speed_up": statistics.median(ratios),
        "speed_up_range": [min(ratios), max(ratios)],
        "rounds": len(steps),
    }


class Stopwatch:
    """Times calls on a device, each as often as it takes to be measured well."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Processor time leaves out whatever else the machine does meanwhile.
        self._clock = processor_time if device.type == "cpu" else time.perf_counter
        self._calls: dict[tuple[Callable[[int], Any], int], int] = {}

    def __call__(self, work: Callable[[int], Any], size: int) -> float:
        """Seconds of one call, the device's queue included."""
        calls = self._calls.get((work, size), 1)
        self._wait()
        began = self._clock()
        for _ in range(calls):
            work(size)
        self._wait()
        seconds = (self._clock() - began) / calls
        self._calls[work, size] = max(1, math.ceil(LEAST_SAMPLE / max(seconds, 1e-4)))
        return seconds

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type != "cpu" and hasattr(torch, "accelerator"):
            torch.accelerator.synchronize()


def processor_time() -> float:
    """Seconds of one of the threads that share the work."""
    return time.process_time() / torch.get_num_threads()


def measure(
    parts: list[Part], watch: Callable[[Callable[[int], Any], int], float], seconds: float, warm_up: int = CPU_WARM_UP
) -> list[Step]:
    """Rounds of all parts, full and pruned in turns, until `seconds` are up; one at least.

    Before them everything is called once at an edge of `warm_up` pixels.
    """
    began = time.monotonic()
    for part in parts:
        for work in filter(None, (part.full, part.pruned)):
            watch(work, warm_up)
    steps: list[Step] = []
    while len(steps) < MOST_ROUNDS:
        started = time.monotonic()
        found: dict[tuple[str, bool], float] = {}
        for part in parts:
            works = [(part.full, False), (part.pruned, True)]
            for work, pruned in works if len(steps) % 2 == 0 else reversed(works):
                if work is not None:
                    found[part.name, pruned] = watch(work, SIZE)
            if not steps:
                say(f"  {part.name}: {_seconds_of(part, found)}")
        steps.append(together(parts, found))
        spent, round_took = time.monotonic() - began, time.monotonic() - started
        say(f"  round {len(steps)}, {spent:.0f} s of {seconds:.0f}: a step takes {_words(steps[-1])}")
        if spent + round_took > seconds:
            break
    return steps


def _seconds_of(part: Part, found: dict[tuple[str, bool], float]) -> str:
    if part.pruned is None:
        return f"{found[part.name, False]:.3g} s"
    return _words(Step(found[part.name, False], found[part.name, True]))


def _words(step: Step) -> str:
    return f"{step.full:.3g} s in full, {step.pruned:.3g} s pruned"


def main() -> None:
    """Measure, print what is measured, and a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no round begins that would end later")
    parser.add_argument("--ratio", type=float, default=DEFAULT_RATIO, help="prune_ratio (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="also where there is an accelerator")
    options = parser.parse_args()
    with chosen_device(options.cpu) as (device, dtype):
        layers = Layers(device, dtype, options.ratio)
        precision = str(dtype).removeprefix("torch.")
        say(f"  in {precision} on {name_of(device)}")
        warm_up = CPU_WARM_UP if device.type == "cpu" else SIZE
        found = summary(measure(layers.parts(), Stopwatch(device), options.seconds, warm_up))
    found["flops_predict"] = layers.flops(SIZE) / layers.flops_pruned(SIZE)
    found |= {"size": SIZE, "dtype": precision, "device": name_of(device)}
    found["threads"] = torch.get_num_threads() if device.type == "cpu" else None
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
