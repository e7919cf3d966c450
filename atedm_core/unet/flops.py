"""Floating-point operations of a U-Net, full and pruned, in closed form.

Two operations per multiply-add, one sample, no guidance: the convention in which the paper's SDXL takes 6.7 TFLOPs a
step at 1024 px. Counted is what `torch.utils.flop_counter` counts: matrix products, convolutions and attention.
What choosing tokens and filling them in costs is in `choosing_flops`, and with it in `pruned_cost`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..tokens import kept_tokens
from .settings import PrunePoint, prune_point
from .structure import AttentionBlock, UNetStructure

CONTEXT_TOKENS = 77
LATENT_SCALE = 8
EXTRA_HEAD_CHANNELS = 8
"""What a head gains where kept tokens count in self-attention for those that they stand for."""


def self_attention_flops(width: int, tokens: int, extra_channels: int = 0) -> int:
    """Query, key, value and output projections, and both attention products, over `tokens`.

    The products are over so many `extra_channels` of all heads together beside the width.
    """
    return 2 * (4 * tokens * width**2 + 2 * tokens**2 * (width + extra_channels))


def cross_attention_flops(width: int, tokens: int, context_width: int, context_tokens: int) -> int:
    """Query and output projections of `tokens`, key and value projections of the text, both attention products."""
    projections = 2 * tokens * width**2 + 2 * context_tokens * context_width * width
    return 2 * (projections + 2 * tokens * context_tokens * width)


def feed_forward_flops(width: int, tokens: int) -> int:
    """GEGLU to four times the width (two projections in one) and back."""
    return 2 * 12 * tokens * width**2


def block_flops(
    block: AttentionBlock,
    tokens: int,
    kept: int | None = None,
    *,
    context_tokens: int = CONTEXT_TOKENS,
    point: PrunePoint | None = None,
    self_on_grid: bool = False,
    cross_on_grid: bool = False,
    weighted: bool = False,
) -> int:
    """One attention block of so many `tokens` on its full grid, of which so many are `kept`, by default all.

    The others are dropped at `point`, by default `prune_point(block.layers)`. Self-attention `on_grid` runs on all
    tokens all the same, for a patch that needs to see them, and likewise cross-attention. It is `weighted` where kept
    tokens count for those that they stand for.
    """
    kept = tokens if kept is None else kept
    point = point or prune_point(block.layers)

    def layer(self_tokens: int, other_tokens: int) -> int:
        self_tokens, asking = tokens if self_on_grid else self_tokens, tokens if cross_on_grid else other_tokens
        cross = cross_attention_flops(block.width, asking, block.context_width, context_tokens)
        extra = block.heads * EXTRA_HEAD_CHANNELS if weighted and self_tokens < tokens else 0
        own = self_attention_flops(block.width, self_tokens, extra)
        return own + cross + feed_forward_flops(block.width, other_tokens)

    first = layer(kept if point == "block start" else tokens, tokens if point == "after first layer" else kept)
    projections = 2 * 2 * tokens * block.channels * block.width
    return projections + first + (block.layers - 1) * layer(kept, kept)


def unet_flops(
    structure: UNetStructure,
    latent: tuple[int, int],
    ratio: float | Callable[[AttentionBlock], float] = 0.0,
    *,
    context_tokens: int = CONTEXT_TOKENS,
    point: PrunePoint = "after first layer",
    weighted: bool = False,
) -> int:
    """One forward pass of the whole U-Net on a latent of (height, width), which is the picture's size over 8.

    `ratio` is the share of tokens dropped in every attention block, or a function giving it per block; they are dropped
    at `point` as far as that is possible (`prune_point`); `weighted` as in `block_flops`.
    """
    total = 2 * structure.fixed_macs
    total += sum(2 * macs * math.prod(structure.grid(level, latent)) for level, macs in enumerate(structure.other_macs))
    for block in structure.blocks:
        tokens = math.prod(structure.grid(block.level, latent))
        kept = kept_tokens(tokens, ratio(block) if callable(ratio) else ratio)
        where = prune_point(block.layers, point)
        total += block_flops(block, tokens, kept, context_tokens=context_tokens, point=where, weighted=weighted)
    return total
