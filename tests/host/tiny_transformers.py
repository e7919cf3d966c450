"""Tiny diffusion transformers with random weights, built from ComfyUI's own classes, for CAT Pruning."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import tiny_models
import torch
from sample_tiny import cond, ksample

DTYPE = torch.float32
SIDE = 64  # of the table of positions


def _sd3(depth: int, seed: int, dtype: torch.dtype, **settings: Any) -> Any:
    import comfy.supported_models

    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 64 * depth}}
    given = {
        "in_channels": 16,
        "out_channels": 16,
        "input_size": None,
        "patch_size": 2,
        "depth": depth,
        "num_blocks": depth,
        "adm_in_channels": 2048,
        "pos_embed_scaling_factor": None,
        "pos_embed_max_size": SIDE,
        "num_patches": SIDE * SIDE,
        "qk_norm": None,
        "context_embedder_config": embedder,
        **settings,
    }
    return tiny_models._patcher(comfy.supported_models.SD3(given), "SD3", seed, dtype)


def sd3(seed: int = 0, dtype: torch.dtype = DTYPE, depth: int = 2) -> Any:
    """SD3-medium's structure: `depth` blocks of `depth` heads, 24 in life."""
    return _sd3(depth, seed, dtype)


def sd35_medium(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """SD3.5-medium's: normed queries and keys, and an attention of the image alone in the first blocks."""
    return _sd3(3, seed, dtype, qk_norm="rms", x_block_self_attn_layers=[0, 1])


def sd35_large(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """SD3.5-large's: normed queries and keys."""
    return _sd3(3, seed, dtype, qk_norm="rms")


def _pixart(config_class: str, seed: int, dtype: torch.dtype, **settings: Any) -> Any:
    import comfy.supported_models

    given = {"hidden_size": 48, "depth": 2, "num_heads": 2, "caption_channels": 32, "model_max_length": 24, **settings}
    config = getattr(comfy.supported_models, config_class)(given)
    return tiny_models._patcher(config, "PixArt", seed, dtype)


def pixart_alpha(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """PixArt-alpha's structure, told the picture's size."""
    return _pixart("PixArtAlpha", seed, dtype, micro_condition=True, pe_interpolation=2)


def pixart_sigma(seed: int = 0, dtype: torch.dtype = DTYPE, **settings: Any) -> Any:
    """PixArt-Sigma's structure."""
    return _pixart("PixArtSigma", seed, dtype, micro_condition=False, pe_interpolation=2, **settings)


def flux(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Flux.1's structure: double and single stream blocks, rotary positions."""
    return tiny_models.flux(depth=2, depth_single=2, seed=seed, dtype=dtype)


def chroma(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Chroma's: Flux.1's blocks, modulated by one network."""
    import comfy.supported_models

    settings = {
        "in_channels": 64,
        "out_channels": 64,
        "patch_size": 2,
        "context_in_dim": 64,
        "hidden_size": 128,
        "mlp_ratio": 4.0,
        "num_heads": 1,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "qkv_bias": True,
        "in_dim": 64,
        "out_dim": 128,
        "hidden_dim": 64,
        "n_layers": 1,
        "txt_ids_dims": [],
        "vec_in_dim": 0,
    }
    return tiny_models._patcher(comfy.supported_models.Chroma(settings), "Chroma", seed, dtype)


def auraflow(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """AuraFlow's: learned positions, eight registers before the text."""
    import comfy.supported_models

    settings = {
        "cond_seq_dim": 64,
        "dim": 128,
        "global_conddim": 128,
        "n_layers": 4,
        "n_double_layers": 2,
        "n_heads": 2,
        "max_seq": SIDE * SIDE,
    }
    return tiny_models._patcher(comfy.supported_models.AuraFlow(settings), "AuraFlow", seed, dtype)


def qwen_image(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Qwen-Image's: rotary positions, a latent with a dimension for frames."""
    import comfy.supported_models

    settings = {
        "in_channels": 64,
        "num_layers": 2,
        "attention_head_dim": 128,
        "num_attention_heads": 1,
        "joint_attention_dim": 64,
    }
    return tiny_models._patcher(comfy.supported_models.QwenImage(settings), "QwenImage", seed, dtype)


@dataclass(frozen=True)
class Transformer:
    """How to build one, and what it takes."""

    build: Any
    channels: int
    context: int
    pooled: int | None
    frames: bool = False


TRANSFORMERS = {
    "sd3": Transformer(sd3, 16, 4096, 2048),
    "sd35_medium": Transformer(sd35_medium, 16, 4096, 2048),
    "sd35_large": Transformer(sd35_large, 16, 4096, 2048),
    "pixart_alpha": Transformer(pixart_alpha, 4, 32, None),
    "pixart_sigma": Transformer(pixart_sigma, 4, 32, None),
    "flux": Transformer(flux, 16, 4096, 768),
    "chroma": Transformer(chroma, 16, 64, None),
    "auraflow": Transformer(auraflow, 4, 64, None),
    "qwen_image": Transformer(qwen_image, 16, 64, None, frames=True),
}


@functools.cache
def shared(kind: str) -> Any:
    """One model of a kind for all tests of a process; none of them may leave a trace on it."""
    return TRANSFORMERS[kind].build()


def prompt(kind: str, seed: int = 1, tokens: int = 12, batch: int = 1) -> Any:
    """A CONDITIONING for a kind of model."""
    found = TRANSFORMERS[kind]
    return cond(found.context, found.pooled, tokens, seed, batch)


def latent(kind: str, width: int = 128, height: int = 128, batch: int = 1) -> dict[str, Any]:
    """An empty LATENT for a kind of model, in pixels."""
    found = TRANSFORMERS[kind]
    frames = (1,) if found.frames else ()
    return {"samples": torch.zeros(batch, found.channels, *frames, height // 8, width // 8)}


def sample(model: Any, kind: str, **how: Any) -> torch.Tensor:
    """Eight small steps through the KSampler node."""
    size = {name: how.pop(name) for name in ("width", "height", "batch") if name in how}
    how = {"steps": 8, "cfg": 4.0, "latent": latent(kind, **size), **how}
    positive = how.pop("positive", None) or prompt(kind, 1)
    negative = how.pop("negative", None) or prompt(kind, 2)
    return ksample(model, positive, negative, **how)
