"""What is trained together: the host's U-Net and text encoders, in a form that gradients can pass through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import text
from .model import DemoConfig, build_clip, build_sdxl, reset


class Captions:
    """Captions to rows of the embedding table of the `stored` CLIP tokens, remembering what was tokenized."""

    def __init__(self, tokenizer: Any, stored: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.stored = torch.tensor(stored)
        self._known: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """(rows for clip_l [B, 77], rows for clip_g [B, 77], end positions [B])."""
        for missing in {c for c in captions if c not in self._known}:
            ids_l, ids_g = text.token_ids(self.tokenizer, [missing])
            self._known[missing] = (
                text.compact(ids_l, self.stored)[0],
                text.compact(ids_g, self.stored)[0],
                text.end_of(ids_l)[0],
            )
        return tuple(torch.stack(column) for column in zip(*(self._known[c] for c in captions), strict=True))


def attend(_: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
    """`text.attention` where the host asks for an attention function of its own."""
    with torch.autocast("cpu", enabled=False):
        return text.attention(q, k, v, heads)


def size_vectors(model: nn.Module, rng: np.random.Generator, batch: int) -> Tensor:
    """The size part of SDXL's vector, [B, 1536]: 256 x 256 for most,

    Any other for the rest so that it comes to mean nothing.
    """
    sizes = np.full((batch, 2), 256.0)
    other = rng.random(batch) < 0.3
    sizes[other] = rng.integers(2, 17, (int(other.sum()), 2)) * 64.0
    six = np.stack([sizes[:, 0], sizes[:, 1], np.zeros(batch), np.zeros(batch), sizes[:, 0], sizes[:, 1]], 1)
    return model.embedder(torch.from_numpy(six.reshape(-1)).float()).reshape(batch, -1)


class Trainee(nn.Module):
    """The trained parts together: the host's U-Net and the host's text encoders with small tables.

    `half` is whether the U-Net and the encoders compute in bfloat16, `more_words` what captions hold beyond the demo's.
    """

    def __init__(self, config: DemoConfig, seed: int, more_words: Sequence[str] = (), half: bool = True) -> None:
        super().__init__()
        self.half = half
        self.host = [build_sdxl(config)]  # in a list: the whole host model is no submodule
        clip = build_clip(config)
        self.captions = Captions(clip.tokenizer, text.vocabulary(clip.tokenizer, more_words))
        text.shrink_tables(clip.cond_stage_model, self.captions.stored)
        self.text = clip.cond_stage_model.float()
        self.unet = self.host[0].diffusion_model.to(memory_format=torch.channels_last)
        reset(self.unet, seed)
        reset(self.text, seed + 1)
        self.requires_grad_(True)

    def velocity(
        self, latents: Tensor, noise: Tensor, steps: Tensor, sizes: Tensor, captions: list[str]
    ) -> tuple[Tensor, Tensor]:
        """(predicted, true) velocity of latents [B, 4, h, w] noised to integer time steps [B],

        As the host defines them.
        """
        sigma = self.host[0].model_sampling.sigmas[steps][:, None, None, None]
        scale = (1 + sigma**2).rsqrt()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            tokens, pooled = text.encode_both(self.text, *self.captions(captions))
        noisy = ((latents + sigma * noise) * scale).contiguous(memory_format=torch.channels_last)
        options = {"optimized_attention_override": attend}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            out = self.unet(
                noisy, steps.float(), context=tokens, y=torch.cat([pooled, sizes], 1), transformer_options=options
            )
        return out.float(), (noise - sigma * latents) * scale
