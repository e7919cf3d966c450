"""Floating-point operations of a U-Net, full and pruned, in closed form.

Two operations per multiply-add, one sample, no guidance: the convention in which the paper's SDXL takes 6.7 TFLOPs a
step at 1024 px. Counted is what `torch.utils.flop_counter` counts: matrix products, convolutions and attention.
The pack's own work (ranking, gathering, filling) is not counted here; it is measured.
"""

from __future__ import annotations

from collections.abc import Callable

from ..tokens import kept_tokens
from .settings import PrunePoint, prune_point
from .structure import AttentionBlock, UNetStructure

CONTEXT_TOKENS = 77
LATENT_SCALE = 8


def self_attention_flops(width: int, tokens: int) -> int:
    """Query, key, value and output projections, and both attention products, over `tokens`."""
    return 2 * (4 * tokens * width**2 + 2 * tokens**2 * width)


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
) -> int:
    """One attention block on `tokens` tokens of one sample.

    Args:
        block: which block.
        tokens: on its full grid.
        kept: tokens left after pruning; `None` or `tokens` for a full block.
        context_tokens: text tokens.
        point: where the others are dropped; by default `prune_point(block.layers)`.
        self_on_grid: self-attention runs on all tokens all the same, for a patch that needs to see them.
        cross_on_grid: likewise for cross-attention.
    """
    kept = tokens if kept is None else kept
    point = point or prune_point(block.layers)
    in_first = tokens if point == "after first layer" else kept
    self_in_first = kept if point == "block start" and not self_on_grid else tokens

    def rest_of_layer(count: int) -> int:
        asking = tokens if cross_on_grid else count
        cross = cross_attention_flops(block.width, asking, block.context_width, context_tokens)
        return cross + feed_forward_flops(block.width, count)

    first = self_attention_flops(block.width, self_in_first) + rest_of_layer(in_first)
    later = self_attention_flops(block.width, tokens if self_on_grid else kept) + rest_of_layer(kept)
    projections = 2 * 2 * tokens * block.channels * block.width
    return projections + first + (block.layers - 1) * later


def unet_flops(
    structure: UNetStructure,
    latent: tuple[int, int],
    ratio: float | Callable[[AttentionBlock], float] = 0.0,
    *,
    context_tokens: int = CONTEXT_TOKENS,
    point: PrunePoint = "after first layer",
    ranks: bool = False,
) -> int:
    """One forward pass of the whole U-Net for one sample.

    Args:
        structure: of the model.
        latent: (height, width) of the latent, which is the picture's size over 8.
        ratio: share of tokens dropped in every attention block, or a function giving it per block.
        context_tokens: text tokens.
        point: where tokens are dropped, as far as that is possible (`prune_point`).
        ranks: attention ranks the tokens in this pass.
    """
    total = 2 * structure.fixed_macs
    for level, macs in enumerate(structure.other_macs):
        height, width = structure.grid(level, latent)
        total += 2 * macs * height * width
    for block in structure.blocks:
        height, width = structure.grid(block.level, latent)
        tokens = height * width
        share = ratio(block) if callable(ratio) else ratio
        kept = kept_tokens(tokens, share)
        where = prune_point(block.layers, point, ranks=ranks)
        total += block_flops(block, tokens, kept, context_tokens=context_tokens, point=where)
    return total
