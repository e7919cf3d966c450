"""ComfyUI in this process for benchmarks: full-size models with random weights, and the seconds of each model call.

Speed does not depend on the weights; step caches' decisions do, so what they skip here says nothing about real models.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from devtools.layout import current_host

from . import random_models, random_transformers
from .measure import synchronize


def enter(device: torch.device) -> None:
    """Make ComfyUI importable, on this device and with PyTorch's attention; once, before anything else of it."""
    comfyui = current_host().comfyui
    sys.path.insert(0, str(comfyui))
    from comfy.cli_args import args

    args.cpu = device.type == "cpu"
    args.use_pytorch_cross_attention = True
    args.disable_api_nodes = True
    args.base_directory = tempfile.mkdtemp(prefix="atedm-bench-")


@dataclass(frozen=True)
class Inputs:
    """What a family of models takes: width of the text and of its summary, and as many text tokens as are usual."""

    context: int
    pooled: int | None
    tokens: int


INPUTS = {
    "SDXL": Inputs(2048, 1280, 77),
    "BaseModel": Inputs(768, None, 77),
    "SD3": Inputs(4096, 2048, 333),
    "PixArt": Inputs(4096, None, 300),
}
"""By the class that ComfyUI runs the family with; SD 1.5 has the base class itself."""


def random_model(family: str, dtype: torch.dtype, tiny: bool = False) -> Any:
    """A model with random weights: full-size, or a tiny one that only shows whether a benchmark runs."""
    if family == "sdxl":
        return random_models.sdxl(dtype=dtype) if tiny else random_models.sdxl((2, 10), 320, dtype=dtype)
    if family == "sd15":
        return random_models.sd15(dtype=dtype) if tiny else random_models.sd15(channels=320, dtype=dtype)
    if family == "sd3":
        return random_transformers.sd3(dtype=dtype) if tiny else random_transformers.sd3(dtype=dtype, depth=24)
    if tiny:
        return random_transformers.pixart_sigma(dtype=dtype, caption_channels=4096, model_max_length=300)
    return random_transformers.pixart_sigma(
        dtype=dtype, hidden_size=1152, depth=28, num_heads=16, caption_channels=4096, model_max_length=300
    )


def conditioning(model: Any, seed: int) -> Any:
    """Random conditioning, of as many text tokens as the model is usually given."""
    takes = INPUTS[type(model.model).__name__]
    generator = torch.Generator().manual_seed(seed)
    extra = {} if takes.pooled is None else {"pooled_output": torch.randn(1, takes.pooled, generator=generator)}
    return [[torch.randn(1, takes.tokens, takes.context, generator=generator), extra]]


def sample(
    model: Any, size: tuple[int, int], steps: int, cfg: float, device: torch.device, batch: int = 1
) -> list[float]:
    """Seconds of every step but the first of a run of `sample_latent`."""
    return sample_latent(model, size, steps, cfg, device, batch)[1]


def sample_latent(
    model: Any, size: tuple[int, int], steps: int, cfg: float, device: torch.device, batch: int = 1
) -> tuple[torch.Tensor, list[float]]:
    """Run ComfyUI's own sampler (euler, seed 0): the final latent, and the seconds of every step but the first.

    `size` is (width, height) in pixels. The device's queue is in the seconds. The first step also loads the model, and
    a step that a cache left out counts.
    """
    import comfy.sample

    stamps: list[float] = []

    def stamp(*_: Any) -> None:
        synchronize(device)
        stamps.append(time.perf_counter())

    channels = model.model.latent_format.latent_channels
    empty = torch.zeros(batch, channels, size[1] // 8, size[0] // 8)
    noise = comfy.sample.prepare_noise(empty, 0, None)
    conditions = [conditioning(model, 1), conditioning(model, 2)]
    how: dict[str, Any] = {"callback": stamp, "disable_pbar": True, "seed": 0}
    with torch.inference_mode():
        latent = comfy.sample.sample(model, noise, steps, cfg, "euler", "normal", *conditions, empty, **how)
    return latent, [after - before for before, after in pairwise(stamps)]
