"""SDXL's layers with random weights, on the device and in the precision that ComfyUI would choose for SDXL.

One attention block and one residual block of convolutions per level, a few hundred MB: the pieces that a step is made
of. They are ComfyUI's own, and AT-EDM runs them as it does in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .host import use_host

PROGRESS = 0.5  # of the run that the step is from; at the defaults all steps are pruned alike
TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 77, 2048, 1280
RESIDUAL_BLOCKS = (1, 5, 8)  # input blocks that begin with one as wide as their level, by level
CHANNELS, HEAD_CHANNELS, EMBEDDING = 320, 64, 1280
WEIGHTS = 2_567_000_000  # of the whole U-Net, by which ComfyUI chooses the precision


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


class Layers:
    """SDXL's layers on a device, and how they are called with and without AT-EDM at a ratio."""

    def __init__(self, device: torch.device, dtype: torch.dtype, ratio: float) -> None:
        self._device, self._dtype = device, dtype
        # On `meta` the whole model takes no memory; what is timed is given some.
        model = _whole_sdxl(dtype)
        self._unet = model.model.diffusion_model
        self._method = _method(model, ratio)
        self.structure = self._method.structure
        self._blocks = {block.level: block for block in reversed(self.structure.blocks)}  # the first of each level
        self._runs: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._maps: dict[tuple[int, int], Tensor] = {}
        self._text = self._noise(1, TEXT_TOKENS, TEXT_WIDTH)
        self._time = self._noise(1, EMBEDDING)

    def parts(self) -> list[Part]:
        """A residual block of every level and an attention block of every level that has any."""
        found = [self._convolutions(level, index) for level, index in enumerate(RESIDUAL_BLOCKS)]
        return [*found, *(self._attention(level, block) for level, block in self._blocks.items())]

    def flops(self, size: int) -> int:
        """Of a step of all SDXL at an edge of `size` pixels."""
        from benchmarks.pack.atedm_core.unet.flops import unet_flops

        return unet_flops(self.structure, (size // 8, size // 8))

    def flops_pruned(self, size: int) -> float:
        """The same with AT-EDM, as its own account of what was called at that size has it."""
        saved = 0.0
        for (_, name), spent in self._run(size)[0].tallies.items():
            (level,) = (level for level, block in self._blocks.items() if block.name == name)
            saved += self._count(level) * (spent.flops_full - spent.flops) / spent.calls
        return self.flops(size) - saved

    def _count(self, level: int) -> int:
        return sum(block.level == level for block in self.structure.blocks)

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
            options = {**self._run(size)[1], "block": (described.part, described.index)}
            x = self._map(described.channels, level, size)
            return attention_block_handler(block, x, self._time, self._text, options)

        stays_whole = self._method.schedule.ratio(PROGRESS, described) == 0
        return Part(f"attention at level {level}", self._count(level), full, None if stays_whole else pruned)

    def _run(self, size: int) -> tuple[Any, dict[str, Any]]:
        """The pack's state of a run at a size, and what it hangs into the options in the middle of it."""
        from benchmarks.pack.patches.unet.run import RUN_KEY, PruneRun

        if size not in self._runs:
            run = PruneRun(self._method, lambda percent: 1.0 - percent)
            options = {RUN_KEY: run, "sigmas": torch.tensor([1.0 - PROGRESS], device=self._device)}
            run.sigma(options)  # read back once a step, not once a block
            self._runs[size] = run, options
        return self._runs[size]

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


def _whole_sdxl(dtype: torch.dtype) -> Any:
    """A MODEL of SDXL's size that has no weights yet."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    from .model import UNetConfig

    sizes = UNetConfig(CHANNELS, channel_mult=(1, 2, 4), depth=(2, 10)).host(TEXT_WIDTH, POOLED_WIDTH)
    config = comfy.supported_models.SDXL({**sizes, "num_head_channels": HEAD_CHANNELS})
    config.set_inference_dtype(dtype, None)
    config.custom_operations = comfy.ops.disable_weight_init
    meta = torch.device("meta")
    return comfy.model_patcher.ModelPatcher(comfy.model_base.SDXL(config, device=meta), meta, meta)


def _method(model: Any, ratio: float) -> Any:
    """What AT-EDM Apply does to a MODEL at its defaults and this ratio, which every block gets.

    On SDXL blocks have ratios of their own, of which this is the mean. One block is timed for all of a level, and what
    it takes is nearly a line over its tokens: the FLOPs of a step come out 0.7 % lower.
    """
    from benchmarks.pack.atedm_core.unet.schedule import DSAPSchedule
    from benchmarks.pack.atedm_core.unet.settings import DEFAULT_SETTINGS
    from benchmarks.pack.patches.unet.apply import applied_method, apply_atedm

    method = applied_method(apply_atedm(model, DSAPSchedule(ratio), DEFAULT_SETTINGS))
    return replace(method, schedule=replace(method.schedule, block_shares=()))


@contextmanager
def chosen_device(cpu: bool) -> Iterator[tuple[torch.device, torch.dtype]]:
    """Where ComfyUI would run SDXL, and in which precision; gradients are off while it lasts."""
    use_host(cpu)
    import comfy.model_management
    import comfy.supported_models

    device = comfy.model_management.get_torch_device()
    known = comfy.supported_models.SDXL.supported_inference_dtypes
    weights = comfy.model_management.unet_dtype(device, WEIGHTS, known)
    with torch.inference_mode():
        yield device, comfy.model_management.unet_manual_cast(weights, device, known) or weights


def name_of(device: torch.device) -> str:
    """As ComfyUI calls it."""
    import comfy.model_management

    return "the CPU" if device.type == "cpu" else str(comfy.model_management.get_torch_device_name(device))
