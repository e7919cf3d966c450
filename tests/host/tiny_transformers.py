"""Tiny diffusion transformers with random weights, built from ComfyUI's own classes, for CAT Pruning."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import tiny_models
import torch
from sample_tiny import cond, ksample

DTYPE = torch.float32


def sd3(seed: int = 0, dtype: torch.dtype = DTYPE, depth: int = 2) -> Any:
    """SD3-medium's structure: `depth` blocks of `depth` heads, 24 in life."""
    return tiny_models.sd3(depth, seed=seed, dtype=dtype)


def sd35_medium(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """SD3.5-medium's: normed queries and keys, and an attention of the image alone in the first blocks."""
    return tiny_models.sd3(3, seed=seed, dtype=dtype, qk_norm="rms", x_block_self_attn_layers=[0, 1])


def sd35_large(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """SD3.5-large's: normed queries and keys."""
    return tiny_models.sd3(3, seed=seed, dtype=dtype, qk_norm="rms")


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
        **tiny_models.FLUX_BLOCKS,
        "in_channels": 64,
        "out_channels": 64,
        "context_in_dim": 64,
        "depth": 2,
        "depth_single_blocks": 2,
        "in_dim": 64,
        "out_dim": 128,
        "hidden_dim": 64,
        "n_layers": 1,
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
        "max_seq": 64 * 64,
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


def _sd3_checkpoint(seed: int) -> tuple[Any, Any, Any]:
    model = tiny_models.sd3(adm_in_channels=sum(tiny_models.CLIP_WIDTHS), seed=seed)
    return model, tiny_models.clip("sd3", seed), tiny_models.vae(16, seed)


def _pixart_checkpoint(seed: int) -> tuple[Any, Any, Any]:
    model = pixart_sigma(seed, caption_channels=tiny_models.T5_WIDTH)
    return model, tiny_models.clip("pixart", seed), tiny_models.vae(seed=seed)


CHECKPOINTS = {"sd3": _sd3_checkpoint, "pixart": _pixart_checkpoint}
"""(MODEL, CLIP, VAE) that fit together, by kind, for a seed."""


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
