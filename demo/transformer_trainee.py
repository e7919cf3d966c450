"""Training of the demo's diffusion transformer: rectified flow on latents of drawn scenes, text encoders left alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import store, text
from .model import DemoConfig, build_clip
from .optimizer import Orthogonal
from .scenes import TEMPLATES, caption, loosen
from .train_model import ModelTraining, Progress
from .trainee import Captions
from .transformer import TEXT_TOKENS, build_sd3, reset
from .transformer_store import TransformerConfig

SHIFT = 3.0
"""Of the noise levels that are trained, as of those that are sampled."""
ADAM_SHARE = 0.4
"""Of the learning rate of orthogonalised steps."""
FAST_FREQUENCIES = 0.5
"""Share of the noise level's frequencies, the highest, that stay shut off.

Random weights answer these with another vector at every level, and a few thousand steps do not unlearn it: predictions
then jump from step to step, as those of models trained for long do not, and nothing can be forecast or kept.
"""


@dataclass(frozen=True)
class TransformerTraining(ModelTraining):
    """How it differs from the demo model's training.

    Attributes:
        partial: share of the time in which only `tokens` of the image tokens take part.
        tokens: share of image tokens that then take part.
    """

    minutes: float = 48.0
    batch: int = 24
    rate: float = 5e-3
    warm_up: int = 100
    ema: float = 0.995
    partial: float = 0.85
    tokens: float = 0.5


class TransformerTrainee(nn.Module):
    """The host's transformer; the text encoders of the file `source` beside it, not trained."""

    def __init__(self, config: TransformerConfig, seed: int, source: Path = store.DEFAULT_FILE) -> None:
        super().__init__()
        content = store.read(source)
        clip = build_clip(DemoConfig.from_dict(content.config))
        self._captions = Captions(clip.tokenizer, content.tokens)
        text.shrink_tables(clip.cond_stage_model, self._captions.stored)
        encoders = clip.cond_stage_model.float()
        encoders.load_state_dict(content.text, strict=False)
        self._text = [encoders]  # in a list: no submodule, and so not trained
        self.dit = build_sd3(config).diffusion_model
        reset(self.dit, seed)
        self.requires_grad_(True)
        self.shut_off_fast_frequencies()
        first = self.dit.t_embedder.mlp[0].weight
        first.register_hook(lambda gradient: gradient.masked_fill(_fast(gradient), 0.0))

    @torch.no_grad()
    def shut_off_fast_frequencies(self) -> None:
        """Needed after weights were loaded that have them; training leaves them shut off."""
        first = self.dit.t_embedder.mlp[0].weight
        first.masked_fill_(_fast(first), 0.0)

    @torch.no_grad()
    def conditions(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """(text tokens [B, TEXT_TOKENS, 128], their summary [B, 64])."""
        rows_l, rows_g, end = self._captions(captions)
        few = TEXT_TOKENS
        hidden, pooled = text.encode_both(self._text[0], rows_l[:, :few], rows_g[:, :few], end)
        return hidden, pooled

    def velocity(
        self, latents: Tensor, noise: Tensor, sigma: Tensor, captions: list[str], tokens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(predicted, true) velocity by token, [B, K, 16], of latents [B, 4, h, w] noised to levels [B].

        `tokens` [B, K] says which image tokens there are; all by default.
        """
        level = sigma[:, None, None, None]
        noisy, true = latents + level * (noise - latents), by_token(noise - latents)
        context, pooled = self.conditions(captions)
        model = self.dit
        with torch.autocast("cpu", torch.bfloat16):
            x = model.x_embedder(noisy) + model.cropped_pos_embed(noisy.shape[-2:])
            if tokens is not None:
                x, true = pick(x, tokens), pick(true, tokens)
            vector = model.t_embedder(1000 * sigma, dtype=x.dtype) + model.y_embedder(pooled)
            options = {"optimized_attention_override": attend}
            out = model.forward_core_with_concat(
                x, vector, model.context_embedder(context), transformer_options=options
            )
        return out.float(), true


def _fast(weight: Tensor) -> Tensor:
    """`[1, F]` bool: which of the F inputs of the time embedding's first layer, cosines then sines, are fast."""
    half = weight.shape[1] // 2
    fast = torch.arange(half, device=weight.device) < FAST_FREQUENCIES * half
    return fast.repeat(2)[None]


def by_token(latents: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h w / 4, 4 C], in the order of the host's last layer."""
    return latents.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def pick(values: Tensor, tokens: Tensor) -> Tensor:
    """`[B, N, D]` and `[B, K]` -> `[B, K, D]`."""
    return values.gather(1, tokens[..., None].expand(-1, -1, values.shape[-1]))


def attend(_: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
    """`text.attention` where the host asks for an attention function of its own; its values come by head."""
    return text.attention(q, k, v.flatten(2), heads)


def optimizers(trainee: TransformerTrainee, training: ModelTraining) -> list[torch.optim.Optimizer]:
    """Orthogonalised steps for the matrices inside the blocks, Adam for all else."""
    matrices, rest = [], []
    for name, weight in trainee.dit.named_parameters():
        inside = "joint_blocks" in name and weight.ndim == 2 and "adaLN" not in name
        (matrices if inside and training.orthogonal else rest).append(weight)
    group = {"params": rest, "scale": ADAM_SHARE}
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([group], training.rate, betas=(0.9, 0.99), weight_decay=training.weight_decay)
    ]
    if matrices:
        made.append(Orthogonal(matrices, training.rate, weight_decay=training.weight_decay))
    return made


def shifted(spread: Tensor) -> Tensor:
    """Noise levels for even numbers from 0 to 1."""
    return SHIFT * spread / (1 + (SHIFT - 1) * spread)


@torch.no_grad()
def validate(trainee: TransformerTrainee, latents: Tensor, captions: list[str], seed: int = 9) -> list[float]:
    """Loss on held-out scenes for four bands of noise, least noise first; the same noise every time."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    out = []
    for band in range(4):
        sigma = shifted((band + torch.linspace(0, 1, len(latents))) / 4)
        out.append(float(nn.functional.mse_loss(*trainee.velocity(latents, noise, sigma, captions))))
    return out


def learn(
    trainee: TransformerTrainee,
    data: dict[str, Any],
    rng: np.random.Generator,
    progress: Progress,
    training: TransformerTraining,
    templates: tuple[str, ...] = TEMPLATES,
) -> float:
    """Gradients of one batch, captions made with `templates`; returns the loss."""
    chosen = rng.integers(len(data["latents"]), size=training.batch)
    latents = data["latents"][chosen].float()
    scenes = [loosen(data["scenes"][data["shows"][i]], rng) for i in chosen]
    captions = [caption(scene, int(rng.integers(len(templates))), templates) for scene in scenes]
    dropped = rng.random(training.batch) < training.empty
    captions = ["" if drop else one for one, drop in zip(captions, dropped, strict=True)]
    # spread evenly over the batch, which makes the loss steadier
    spread = torch.from_numpy((np.arange(training.batch) + rng.random(training.batch)) / training.batch).float()
    tokens = None
    if progress.seconds < 60 * training.minutes * training.partial:
        count = latents.shape[2] * latents.shape[3] // 4
        tokens = torch.rand(training.batch, count).argsort(1)[:, : int(training.tokens * count)]
    trainee.zero_grad()
    out, true = trainee.velocity(latents, torch.randn_like(latents), shifted(spread), captions, tokens)
    loss = nn.functional.mse_loss(out, true)
    loss.backward()
    return float(loss.detach())
