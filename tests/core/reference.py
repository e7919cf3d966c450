"""The dense forms that the map-free ones are measured against, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def logits(q: Tensor, k: Tensor) -> Tensor:
    return q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5


def dense_gwpr(q: Tensor, k: Tensor, iterations: int = 1, start: Tensor | None = None) -> Tensor:
    attention = logits(q, k).softmax(-1)
    scores = uniform(q) if start is None else start.double() / start.double().sum(-1, keepdim=True)
    for _ in range(iterations):
        scores = (attention.transpose(-1, -2) @ scores.unsqueeze(-1)).squeeze(-1)
    return scores


def dense_cross_gwpr(q: Tensor, k: Tensor, iterations: int = 1) -> Tensor:
    attention = logits(q, k).softmax(-1)
    scores = uniform(q)
    for _ in range(iterations):
        key_scores = (attention.transpose(-1, -2) @ scores.unsqueeze(-1)).squeeze(-1)
        scores = (attention @ key_scores.unsqueeze(-1)).squeeze(-1)
        scores = scores / scores.sum(-1, keepdim=True)
    return scores


def uniform(q: Tensor) -> Tensor:
    return torch.full(q.shape[:-1], 1.0 / q.shape[-2], dtype=torch.float64)


def random_tokens(shape: tuple[int, ...], seed: int, gain: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * gain


def smooth_states(grid: tuple[int, int], channels: int, seed: int, samples: int = 1) -> Tensor:
    """Hidden states `[samples, N, channels]` of a smooth picture, which have most of their direction in common."""
    rough = random_tokens((samples, channels, 7, 7), seed)
    field = torch.nn.functional.interpolate(rough, size=grid, mode="bicubic", align_corners=True)
    return (field.flatten(2).transpose(1, 2) + random_tokens((channels,), seed + 1, 3.0)).contiguous()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest relative error; where the expected value is below what float32 can hold, against that."""
    floor = expected.clamp_min(torch.finfo(torch.float32).tiny)
    return ((found.double() - expected).abs() / floor).max().item()
