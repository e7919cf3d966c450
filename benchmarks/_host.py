"""ComfyUI in this process for benchmarks: full-size models with random weights, and the seconds of each model call.

Speed does not depend on the weights; step caches' decisions do, so what they skip here says nothing about real models.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from itertools import pairwise
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


def random_model(family: str, dtype: torch.dtype, tiny: bool = False) -> Any:
    """An SDXL or SD 1.5 with random weights: full-size, or one that only shows whether a benchmark runs."""
    import tiny_models

    if family == "sdxl":
        return tiny_models.sdxl(dtype=dtype) if tiny else tiny_models.sdxl((2, 10), 320, dtype=dtype)
    return tiny_models.sd15(dtype=dtype) if tiny else tiny_models.sd15(channels=320, dtype=dtype)


def conditioning(model: Any, seed: int) -> Any:
    """Random conditioning of 77 text tokens."""
    config = model.model.model_config.unet_config
    generator = torch.Generator().manual_seed(seed)
    extra = (
        {} if config.get("adm_in_channels") is None else {"pooled_output": torch.randn(1, 1280, generator=generator)}
    )
    return [[torch.randn(1, 77, config["context_dim"], generator=generator), extra]]


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

    empty = torch.zeros(batch, 4, size[1] // 8, size[0] // 8)
    noise = comfy.sample.prepare_noise(empty, 0, None)
    conditions = [conditioning(model, 1), conditioning(model, 2)]
    how: dict[str, Any] = {"callback": stamp, "disable_pbar": True, "seed": 0}
    with torch.inference_mode():
        latent = comfy.sample.sample(model, noise, steps, cfg, "euler", "normal", *conditions, empty, **how)
    return latent, [after - before for before, after in pairwise(stamps)]
