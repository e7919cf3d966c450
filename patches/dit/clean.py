"""Tokens and the latent that they are patches of.

R rows of a batch, N tokens on a grid of (height, width), K selected ones.
"""

from __future__ import annotations

import torch
from torch import Tensor


def marked(selected: Tensor, tokens: int) -> Tensor:
    """`[R, N]` bool: which of so many tokens are the selected ones (`[R, K]`)."""
    nothing = torch.zeros(selected.shape[0], tokens, dtype=torch.bool, device=selected.device)
    return nothing.scatter_(1, selected, True)


def on_latent(tokens: Tensor, grid: tuple[int, int], patch: int, like: Tensor) -> Tensor:
    """Every token's value (`[R, N]`) on its patch, for a latent `[R, C, ..., H, W]`: `[R, 1, ..., H, W]`."""
    height, width = like.shape[-2:]
    plane = tokens.unflatten(1, grid).repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, :height, :width]
    return plane.view(plane.shape[0], *[1] * (like.ndim - 3), height, width)


def by_token(latent: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """A latent (`[R, C, ..., H, W]`) as a row for each token: `[R, N, D]`. What lies beyond its edges is 0."""
    plane = latent.flatten(1, -3)
    below, beside = grid[0] * patch - plane.shape[-2], grid[1] * patch - plane.shape[-1]
    plane = torch.nn.functional.pad(plane, (0, beside, 0, below))
    return torch.nn.functional.unfold(plane, patch, stride=patch).transpose(1, 2)
