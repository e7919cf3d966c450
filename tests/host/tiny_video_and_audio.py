"""A tiny video model and a tiny audio model with random weights, built from ComfyUI's own classes."""

from __future__ import annotations

import functools
from typing import Any

import torch
from sample_tiny import cond

from benchmarks import random_models

FRAMES = 3
SECONDS = 2


def wan(seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Wan 2.1's structure: latents with frames, rotary positions, flow."""
    import comfy.supported_models

    settings = {
        "image_model": "wan2.1",
        "model_type": "t2v",
        "dim": 48,
        "ffn_dim": 96,
        "num_heads": 2,
        "num_layers": 2,
        "text_dim": 64,
        "text_len": 512,
    }
    return random_models.patcher(comfy.supported_models.WAN21_T2V(settings), "WAN21", seed, dtype)


def stable_audio(seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Stable Audio Open's: latents of one dimension, v-prediction at noise levels up to 500."""
    import comfy.ldm.audio.embedders
    import comfy.supported_models

    settings = {
        "audio_model": "dit1.0",
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 2,
        "cond_token_dim": 768,
        "project_cond_tokens": True,
        "global_cond_dim": 1536,
    }
    numbers = comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, max_val=512)
    random_models.fill_with_noise(numbers, seed + 1)
    weights = numbers.state_dict()
    return random_models.patcher(
        comfy.supported_models.StableAudio(settings),
        "StableAudio1",
        seed,
        dtype,
        seconds_start_embedder_weights=weights,
        seconds_total_embedder_weights=weights,
    )


BUILDERS = {"wan": wan, "stable_audio": stable_audio}


@functools.cache
def shared(kind: str) -> Any:
    """One model of a kind for all tests of a process; none of them may leave a trace on it."""
    return BUILDERS[kind]()


def prompt(kind: str, seed: int) -> Any:
    """A CONDITIONING for a kind of model."""
    return cond(64 if kind == "wan" else 768, None, 12, seed)


def latent(kind: str) -> dict[str, Any]:
    """An empty LATENT for a kind of model."""
    if kind == "wan":
        return {"samples": torch.zeros(1, 16, FRAMES, 8, 8)}
    return {"samples": torch.zeros(1, 64, round(21.53 * SECONDS)), "type": "audio"}
