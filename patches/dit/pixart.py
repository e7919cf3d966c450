"""PixArt, whose attention the host does not hand on: what CAT Pruning does in its layers' place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.modules.attention
import comfy.ldm.pixart.blocks
from torch import Tensor

Attend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Any]]


@contextmanager
def attended(model: Any, attend: Attend) -> Iterator[None]:
    """PixArt drops `transformer_options`, so its self-attention is run from here, with its own layers."""
    layers = [block.attn for block in model.blocks]
    before = [dict(vars(layer)) for layer in layers]
    try:
        for layer in layers:
            layer.forward = _attention(layer, attend)
        yield
    finally:
        for layer, attributes in zip(layers, before, strict=True):
            del layer.forward
            if "forward" in attributes:
                layer.forward = attributes["forward"]


def _attention(layer: Any, attend: Attend) -> Callable[..., Tensor]:
    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        q, k, v = layer.qkv(x).chunk(3, dim=-1)
        k, v, _ = attend(layer.k_norm(k), v)

        def by_head(one: Tensor) -> Tensor:
            return one.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)

        attention = comfy.ldm.modules.attention.optimized_attention
        mixed = attention(by_head(layer.q_norm(q)), by_head(k), by_head(v), layer.num_heads, skip_reshape=True)
        out: Tensor = layer.proj(mixed)
        return out

    return forward


def noise(model: Any, output: Tensor) -> Tensor:
    """The predicted noise without the variance that PixArt predicts beside it."""
    by_pixel = output.unflatten(-1, (-1, model.out_channels))
    return by_pixel[..., : model.in_channels].flatten(-2)


def unsupported(model: Any) -> str | None:
    """What is wrong with a PixArt that cannot be pruned."""
    if any(block.attn.sr_ratio > 1 for block in model.blocks):
        return "its keys and values are compressed"
    own = comfy.ldm.pixart.blocks.AttentionKVCompress.forward
    # The host leaves the layer's own method behind as an attribute where it has undone a patch.
    if any(getattr(block.attn.forward, "__func__", None) is not own for block in model.blocks):
        return "another node replaces its self-attention"
    return None
