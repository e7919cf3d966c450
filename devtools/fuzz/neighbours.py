"""Nodes of ComfyUI's own that patch a model too, with inputs drawn at random; and a LoRA for each model."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

LINEAR, LORA_RANK, LORA_LAYERS = 2, 2, 5
Draw = Callable[[random.Random], dict[str, Any]]


def _cache(rng: random.Random) -> dict[str, Any]:
    return {
        "reuse_threshold": rng.choice((0.05, 0.3, 3.0)),
        "start_percent": 0.0,
        "end_percent": rng.choice((0.8, 1.0)),
        "verbose": False,
    }


def _shrink(rng: random.Random) -> dict[str, Any]:
    return {
        "block_number": rng.randint(1, 4),
        "downscale_factor": rng.choice((1.5, 2.0)),
        "start_percent": 0.0,
        "end_percent": rng.choice((0.4, 0.9)),
        "downscale_after_skip": rng.random() < 0.5,
        "downscale_method": "bicubic",
        "upscale_method": "bicubic",
    }


def _hyper_tile(rng: random.Random) -> dict[str, Any]:
    return {
        "tile_size": rng.choice((8, 32, 64)),
        "swap_size": rng.randint(1, 3),
        "max_depth": rng.randint(0, 3),
        "scale_depth": rng.random() < 0.5,
    }


UNET_ONLY: dict[str, Draw] = {
    "TomePatchModel": lambda rng: {"ratio": round(rng.uniform(0.0, 1.0), 2)},
    "HyperTile": _hyper_tile,
    "FreeU_V2": lambda rng: {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "PerturbedAttentionGuidance": lambda rng: {"scale": rng.choice((0.0, 3.0))},
    "SelfAttentionGuidance": lambda rng: {"scale": rng.choice((0.5, 2.0)), "blur_sigma": 2.0},
    "PatchModelAddDownscale": _shrink,
}
ANYWHERE: dict[str, Draw] = {
    "EasyCache": _cache,
    "LazyCache": _cache,
    "RescaleCFG": lambda rng: {"multiplier": rng.choice((0.3, 0.7))},
}
LORA = "LoraLoaderModelOnly"
ANYWHERE[LORA] = lambda rng: {"strength_model": rng.choice((-0.5, 0.5, 1.0))}
NEIGHBOURS = {**UNET_ONLY, **ANYWHERE}


def draw_neighbour(rng: random.Random, unet: bool) -> tuple[str, dict[str, Any]]:
    """One of them that a U-Net, or else a transformer, can have."""
    name = rng.choice(sorted(NEIGHBOURS if unet else ANYWHERE))
    return name, NEIGHBOURS[name](rng)


def put_beside(call: tuple[str, dict[str, Any]], host: Any, model: Any, family: str) -> Any:
    """A clone of the model with a neighbour."""
    name, inputs = call
    if name == LORA:
        inputs = {**inputs, "lora_name": _lora(host, model, family)}
    return host.call(name, model=model, **inputs)[0]


def _lora(host: Any, model: Any, family: str) -> str:
    """The name of a LoRA on a few layers of a family's models, as a file that the host's own loader finds."""
    import folder_paths
    import torch
    from safetensors.torch import save_file

    file = Path(host.base) / "models" / "loras" / f"{family}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(5)
        weights = {name: one for name, one in model.model.named_parameters() if name.endswith("weight")}
        flat = [name for name, one in weights.items() if one.ndim == LINEAR and name.startswith("diffusion_model.")]
        made = {}
        for name in flat[:: max(1, len(flat) // LORA_LAYERS)]:
            out, into = weights[name].shape
            layer = name.removesuffix(".weight")
            made[f"{layer}.lora_up.weight"] = torch.randn(out, LORA_RANK, generator=generator)
            made[f"{layer}.lora_down.weight"] = torch.randn(LORA_RANK, into, generator=generator) / into**0.5
        save_file(made, file)
        folder_paths.add_model_folder_path("loras", str(file.parent))
    return file.name
