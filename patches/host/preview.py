"""What a latent shows, roughly, without a VAE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def latent_preview(model: Any, samples: Tensor) -> Tensor | None:
    """Latents `[B, C, h, w]` as colours `[B, h, w, 3]` of 0 to 1, by the linear ones that the host knows for a MODEL's.

    `None` where it knows none.
    """
    latent_format = model.model.latent_format
    factors = getattr(latent_format, "latent_rgb_factors", None)
    if factors is None or samples.ndim != 4 or samples.shape[1] != len(factors):
        return None
    bias = torch.tensor(getattr(latent_format, "latent_rgb_factors_bias", None) or [0.0] * 3)
    latents = latent_format.process_in(samples.float().cpu()).movedim(1, -1)
    return ((latents @ torch.tensor(factors, dtype=torch.float32) + bias + 1.0) / 2.0).clamp(0.0, 1.0)
