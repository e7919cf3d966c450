"""ComfyUI in this process for benchmarks: full-size models with random weights, and the seconds of each model call.

Speed does not depend on the weights; step caches' decisions do, so what they skip here says nothing about real models.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from devtools.layout import ROOT, current_host

from ._measure import synchronize

TESTS = ROOT / "tests" / "host"
PACK_NAME = "atedm_pack"


def enter(device: torch.device) -> None:
    """Make ComfyUI importable, on this device and with PyTorch's attention; once, before anything else of it."""
    comfyui = current_host().comfyui
    sys.path[:0] = [str(comfyui), str(TESTS)]
    from comfy.cli_args import args

    args.cpu = device.type == "cpu"
    args.use_pytorch_cross_attention = True
    args.disable_api_nodes = True
    args.base_directory = tempfile.mkdtemp(prefix="atedm-bench-")


def pack(name: str) -> ModuleType:
    """A module of the pack, imported as a package under a name of its own, as ComfyUI does."""
    if PACK_NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK_NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[PACK_NAME] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return importlib.import_module(f"{PACK_NAME}.{name}")


@dataclass(frozen=True)
class Inputs:
    """What a family of models takes: width of the text and of its summary, text tokens, latent channels."""

    context: int
    pooled: int | None
    tokens: int
    channels: int


INPUTS = {
    "sdxl": Inputs(2048, 1280, 77, 4),
    "sd15": Inputs(768, None, 77, 4),
    "sd3": Inputs(4096, 2048, 333, 16),
    "pixart": Inputs(4096, None, 300, 4),
}


def full_model(family: str, dtype: torch.dtype) -> Any:
    """A full-size SDXL, SD 1.5, SD3-medium or PixArt-Sigma with random weights."""
    import tiny_models
    import tiny_transformers

    if family == "sdxl":
        return tiny_models.sdxl(depth=(2, 10), channels=320, dtype=dtype)
    if family == "sd15":
        return tiny_models.sd15(channels=320, dtype=dtype)
    if family == "sd3":
        return tiny_transformers.sd3(dtype=dtype, depth=24)
    return tiny_transformers.pixart_sigma(
        dtype=dtype, hidden_size=1152, depth=28, num_heads=16, caption_channels=4096, model_max_length=300
    )


def conditioning(family: str, seed: int) -> Any:
    """Random conditioning of as many text tokens as the family is usually given."""
    takes = INPUTS[family]
    generator = torch.Generator().manual_seed(seed)
    extra = {} if takes.pooled is None else {"pooled_output": torch.randn(1, takes.pooled, generator=generator)}
    return [[torch.randn(1, takes.tokens, takes.context, generator=generator), extra]]


class CallTimer:
    """Seconds of every model call of a run, the device's queue included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: list[float] = []

    def __call__(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        synchronize(self._device)
        start = time.perf_counter()
        out = executor(*args, **kwargs)
        synchronize(self._device)
        self.seconds.append(time.perf_counter() - start)
        return out


def sample(model: Any, family: str, size: tuple[int, int], steps: int, cfg: float, device: torch.device) -> list[float]:
    """Run ComfyUI's own sampler (euler, seed 0) and return the seconds of each model call."""
    import comfy.sample
    from comfy.patcher_extension import WrappersMP

    timer = CallTimer(device)
    timed = model.clone()
    timed.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "timer", timer)
    latent = torch.zeros(1, INPUTS[family].channels, size[1] // 8, size[0] // 8)
    noise = comfy.sample.prepare_noise(latent, 0, None)
    positive, negative = conditioning(family, 1), conditioning(family, 2)
    with torch.inference_mode():
        comfy.sample.sample(
            timed, noise, steps, cfg, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=0
        )
    return timer.seconds
