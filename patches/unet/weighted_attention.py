"""Kept tokens that stand for others count as many in self-attention, in whatever attention function the host uses.

A key's logits have the logarithm of how many tokens it stands for added (proportional attention: ToMe, Bolya and
Hoffman 2023, section 3). As a mask that would cost the fused kernel; as one more channel of every head it does not: of
head size d' = d + 8, which kernels want to be a multiple of 8, q' = [q, sqrt(d'), 0 ...] and k' = [k sqrt(d'/d),
log n, 0 ...], whose product over sqrt(d') is q k / sqrt(d) + log n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...atedm_core.tokens import TokenSubset
from ...atedm_core.unet.flops import EXTRA_HEAD_CHANNELS
from .full_grid import Options, append_patch

LARGEST_HEAD = 256
"""Channels of a head that fused kernels take; larger ones are left as they are."""
Channels = tuple[Tensor, Tensor]
"""What is added to every head of queries, `[1, 1, 1, 8]`, and of keys, `[B, K, 1, 8]`."""


class WeightedAttention:
    """Self-attention over the kept tokens of one attention block in one model call, for any number of its layers."""

    def __init__(self, subset: TokenSubset) -> None:
        self._subset = subset
        self._channels: Channels | None = None

    def weigh(self, options: Options) -> Options:
        """Options with which a layer's self-attention over the kept tokens is weighted; anything else runs as it is."""
        previous = options.get("optimized_attention_override")
        weighted = False

        def attend(attention: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            nonlocal weighted
            run = attention if previous is None else partial(previous, attention)
            if weighted or not self._fits(args, kwargs):
                return run(*args, **kwargs)
            weighted = True
            queries, heads = args[0], args[3]
            return attend_weighted(run, self.channels(queries.shape[-1] // heads, queries), *args, **kwargs)

        def pass_middle(hidden: Tensor, extra_options: Options) -> Tensor:
            nonlocal weighted
            # Cross-attention comes second, and may have as many text tokens as were kept.
            weighted = True
            return hidden

        return append_patch({**options, "optimized_attention_override": attend}, "middle_patch", pass_middle)

    def _fits(self, args: tuple[Any, ...], kwargs: Any) -> bool:
        if len(args) != 4 or kwargs.get("mask") is not None or "scale" in kwargs:
            return False
        if kwargs.get("skip_reshape") or kwargs.get("skip_output_reshape"):
            return False
        queries, keys, values, heads = args
        expected = self._subset.keep_index.shape
        return (
            _grows(queries.shape[-1] // heads)
            and expected == queries.shape[:2]
            and queries.shape == keys.shape == values.shape
        )

    def channels(self, size: int, like: Tensor) -> Channels:
        """For heads of this size, in the dtype and on the device of `like`; the same in all layers of a block."""
        if self._channels is None:
            first = torch.zeros(EXTRA_HEAD_CHANNELS, device=like.device, dtype=torch.float32)
            first[0] = 1.0
            told = self._subset.members.log()[..., None, None] * first
            asked = math.sqrt(size + EXTRA_HEAD_CHANNELS) * first[None, None, None]
            self._channels = asked.to(like.dtype), told.to(like.dtype)
        return self._channels

    def channels_for(self, size: int, like: Tensor) -> Channels | None:
        """The same, and `None` where heads of that size cannot grow."""
        return self.channels(size, like) if _grows(size) else None


def _grows(size: int) -> bool:
    return size + EXTRA_HEAD_CHANNELS <= LARGEST_HEAD


def attend_weighted(
    run: Callable[..., Tensor],
    channels: Channels,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    heads: int,
    **kwargs: Any,
) -> Tensor:
    """Attention by `run` over `[B, K, heads * size]`, weighted by what `channels` add to every head."""
    queries, keys, values = (x.unflatten(-1, (heads, -1)) for x in (queries, keys, values))
    asked, told = channels
    shape, size = (*queries.shape[:-1], EXTRA_HEAD_CHANNELS), queries.shape[-1]
    longer = math.sqrt((size + EXTRA_HEAD_CHANNELS) / size)
    out = run(
        torch.cat([queries, asked.expand(shape)], dim=-1).flatten(2),
        torch.cat([keys * longer, told.expand(shape)], dim=-1).flatten(2),
        torch.nn.functional.pad(values, (0, EXTRA_HEAD_CHANNELS)).flatten(2),
        heads,
        **kwargs,
    )
    return out.unflatten(-1, (heads, -1))[..., :size].flatten(2)
