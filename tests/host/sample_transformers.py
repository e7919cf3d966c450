"""Conditioning and sampling for the transformers with random weights, through ComfyUI's own nodes."""

from __future__ import annotations

import functools
from typing import Any

import torch
from sample_tiny import cond, ksample

from benchmarks.random_transformers import TRANSFORMERS


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
