"""Conditioning and sampling for the tiny models, through ComfyUI's own nodes."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.random_models import KINDS, Conditioning


def cond(
    context: int = 2048, pooled: int | None = 1280, tokens: int = 77, seed: int = 1, batch: int = 1
) -> Conditioning:
    """A CONDITIONING as CLIPTextEncode returns it, with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    extra = {} if pooled is None else {"pooled_output": torch.randn(batch, pooled, generator=generator)}
    return [[torch.randn(batch, tokens, context, generator=generator), extra]]


def cond_for(kind: str, seed: int = 1, tokens: int | None = None) -> Conditioning:
    """A CONDITIONING of the widths a kind of model takes."""
    found = KINDS[kind]
    return cond(found.context, found.pooled, tokens or found.tokens, seed)


def empty_latent(width: int = 256, height: int = 256, batch: int = 1, channels: int = 4) -> dict[str, Any]:
    """A LATENT as EmptyLatentImage returns it."""
    return {"samples": torch.zeros(batch, channels, height // 8, width // 8), "downscale_ratio_spacial": 8}


def ksample(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    *,
    width: int = 256,
    height: int = 256,
    batch: int = 1,
    steps: int = 4,
    cfg: float = 7.0,
    sampler: str = "euler",
    scheduler: str = "normal",
    seed: int = 42,
    denoise: float = 1.0,
    latent: dict[str, Any] | None = None,
) -> torch.Tensor:
    """The samples that the KSampler node makes."""
    import nodes

    start = empty_latent(width, height, batch) if latent is None else latent
    with torch.inference_mode():  # as the executor runs nodes
        result = nodes.KSampler().sample(
            model, seed, steps, cfg, sampler, scheduler, positive, negative, start, denoise
        )
    samples: torch.Tensor = result[0]["samples"]
    return samples
