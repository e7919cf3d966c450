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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atedm_core.unet.schedule import DEFAULT_RATIO
from devtools.console import say

from .host import use_host

SIZE = 1024
SECONDS = 45.0
MOST_ROUNDS = 5
LEAST_SAMPLE = 0.1  # seconds; a part that is faster is called several times for one sample
CPU_WARM_UP = 256  # pixels: the first call of a kind is slow at any size, and on a CPU a full-size one takes seconds
PROGRESS = 0.5  # of the run that the step is from; at the defaults all steps are pruned alike
TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 77, 2048, 1280


@dataclass(frozen=True)
class Part:
    """One piece of a step.

    Attributes:
        name: in progress and results.
        count: how many such pieces a step has; for convolutions the ratio of FLOPs.
        full: runs it once as the host does, at an edge of so many pixels.
        pruned: the same with AT-EDM; `None` where there is nothing to prune.
    """

    name: str
    count: float
    full: Callable[[int], Any]
    pruned: Callable[[int], Any] | None = None


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


class Layers:
    """SDXL's layers on a device, and how they are called."""

    def __init__(self, device: torch.device, dtype: torch.dtype, ratio: float) -> None:
        import comfy.ops
        from benchmarks.pack.patches.unet.structure import describe_unet
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        from .model import UNetConfig

        wide = UNetConfig(model_channels=320, channel_mult=(1, 2, 4), depth=(2, 10), head_channels=64)
        config = {**wide.host(TEXT_WIDTH, POOLED_WIDTH), "num_head_channels": wide.head_channels}
        # On `meta` the whole model takes no memory; what is timed is given some.
        self._unet = UNetModel(**config, dtype=dtype, device="meta", operations=comfy.ops.disable_weight_init)
        self.structure = describe_unet(self._unet)
        self._device, self._dtype = device, dtype
        self._maps: dict[tuple[int, int], Tensor] = {}
        self._text = self._noise(1, TEXT_TOKENS, TEXT_WIDTH)
        self._time = self._noise(1, 4 * wide.model_channels)
        self._options = self._run_options(ratio)

    def parts(self) -> list[Part]:
        """A residual block of every level and an attention block of every level that has any."""
        blocks = {block.level: block for block in reversed(self.structure.blocks)}  # the first of each level
        found = [self._convolutions(level, index) for level, index in enumerate((1, 5, 8))]
        for level, block in blocks.items():
            found.append(self._attention(level, block))
        return found

    def flops(self, ratio: float = 0.0) -> int:
        """Of a step of all SDXL."""
        from benchmarks.pack.atedm_core.unet.flops import unet_flops

        return unet_flops(self.structure, (SIZE // 8, SIZE // 8), ratio)

    def _convolutions(self, level: int, index: int) -> Part:
        block = self._made(self._unet.input_blocks[index][0])
        convolutions = [module for module in block.modules() if isinstance(module, torch.nn.Conv2d)]
        macs = sum(module.weight.numel() for module in convolutions)

        def run(size: int) -> Tensor:
            return block(self._map(block.channels, level, size), self._time)

        return Part(f"convolutions at level {level}", self.structure.other_macs[level] / macs, run)

    def _attention(self, level: int, described: Any) -> Part:
        from benchmarks.pack.patches.unet.attention_block import attention_block_handler

        block = self._unet.input_blocks[described.index][1]
        # The same layer so many times: it takes a tenth of the memory, and is too large for caches all the same.
        block.transformer_blocks = torch.nn.ModuleList([block.transformer_blocks[0]] * described.layers)
        self._made(block)

        def full(size: int) -> Tensor:
            return block(self._map(described.channels, level, size), self._text, {})

        def pruned(size: int) -> Tensor:
            options = {**self._options, "block": (described.part, described.index)}
            return attention_block_handler(
                block, self._map(described.channels, level, size), self._time, self._text, options
            )

        count = sum(one.level == level for one in self.structure.blocks)
        return Part(f"attention at level {level}", count, full, pruned)

    def _run_options(self, ratio: float) -> dict[str, Any]:
        """What the pack hangs into a run's options, in the middle of a run."""
        from benchmarks.pack.atedm_core.unet.schedule import DSAPSchedule
        from benchmarks.pack.atedm_core.unet.settings import DEFAULT_SETTINGS
        from benchmarks.pack.patches.unet.run import RUN_KEY, Method, PruneRun

        run = PruneRun(Method(DSAPSchedule(ratio), DEFAULT_SETTINGS, self.structure), lambda percent: 1.0 - percent)
        options = {RUN_KEY: run, "sigmas": torch.tensor([1.0 - PROGRESS], device=self._device)}
        run.sigma(options)  # read back once a step, not once a block
        return options

    def _made(self, module: Any) -> Any:
        from benchmarks.random_models import fill_with_noise

        module.to_empty(device=self._device)
        fill_with_noise(module, 0)
        return module.eval()

    def _map(self, channels: int, level: int, size: int) -> Tensor:
        edge = size // 8 // 2**level
        if (channels, edge) not in self._maps:
            self._maps[channels, edge] = self._noise(1, channels, edge, edge)
        return self._maps[channels, edge]

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self._device, dtype=self._dtype)


@contextmanager
def chosen_device(cpu: bool) -> Iterator[tuple[torch.device, torch.dtype]]:
    """Where ComfyUI would run SDXL, and in which precision; gradients are off while it lasts."""
    use_host(cpu)
    import comfy.model_management
    import comfy.supported_models

    device = comfy.model_management.get_torch_device()
    known = comfy.supported_models.SDXL.supported_inference_dtypes
    weights = comfy.model_management.unet_dtype(device, 2_567_000_000, known)
    with torch.inference_mode():
        yield device, comfy.model_management.unet_manual_cast(weights, device, known) or weights


def name_of(device: torch.device) -> str:
    """As ComfyUI calls it."""
    import comfy.model_management

    return "the CPU" if device.type == "cpu" else str(comfy.model_management.get_torch_device_name(device))


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
    found["flops_allow"] = layers.flops() / layers.flops(options.ratio)
    found |= {"size": SIZE, "dtype": precision, "device": name_of(device)}
    found["threads"] = torch.get_num_threads() if device.type == "cpu" else None
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
