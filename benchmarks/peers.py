"""Other ways to make a U-Net faster, from ComfyUI's own nodes, at settings that have an effect on SDXL.

ToMe as ComfyUI ships it leaves SDXL untouched at any ratio, because it merges at the level of the latent only, where
SDXL has no attention. Here its limit is lifted to lower levels, and its name says so: nobody gets this by clicking.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

LIFTED_LEVELS = 4


def tome(model: Any, ratio: float = 0.5, levels: int = LIFTED_LEVELS) -> Any:
    """Token merging in self-attention, at levels down to 1 / `levels` of the latent's edge."""
    patched = _node("tomesd", "TomePatchModel", model, ratio)
    patches = patched.model_options["transformer_options"]["patches"]
    merge = patches["attn1_patch"][-1]

    def merge_at_lower_levels(q: Any, k: Any, v: Any, extra_options: dict[str, Any]) -> Any:
        batch, channels, height, _ = extra_options["original_shape"]
        rows, columns = extra_options["activations_shape"][-2:]
        # The node compares tokens with the latent's; told that the grid is the latent, it merges.
        if rows * columns == q.shape[1] and rows * levels >= height:
            extra_options = {**extra_options, "original_shape": [batch, channels, rows, columns]}
        return merge(q, k, v, extra_options)

    patches["attn1_patch"] = [*patches["attn1_patch"][:-1], merge_at_lower_levels]
    return patched


def hypertile(model: Any, tile: int = 128, depth: int = 2) -> Any:
    """Self-attention in tiles of `tile` pixels, at `depth` levels below the latent's."""
    return _node("hypertile", "HyperTile", model, tile, 2, depth, False)


def deep_shrink(model: Any, end_percent: float = 1.0, block: int = 3, factor: float = 2.0) -> Any:
    """The feature map at 1 / `factor` of its edge from input block `block` on, until `end_percent` of sampling."""
    return _node(
        "model_downscale", "PatchModelAddDownscale", model, block, factor, 0.0, end_percent, True, *["bicubic"] * 2
    )


def easy_cache(model: Any, threshold: float = 0.2) -> Any:
    """Model calls left out while the output is expected to change little."""
    return _node("easycache", "EasyCacheNode", model, threshold, 0.15, 0.95, False)


def lazy_cache(model: Any, threshold: float = 0.2) -> Any:
    """The same for whole steps, for any model."""
    return _node("easycache", "LazyCacheNode", model, threshold, 0.15, 0.95, False)


PEERS: dict[str, Callable[[Any], Any]] = {
    "ToMe 0.5, limit lifted": tome,
    "HyperTile 128, depth 2": hypertile,
    "Deep Shrink, active step": deep_shrink,
    "EasyCache 0.2": easy_cache,
    "LazyCache 0.2": lazy_cache,
}
"""By the name that tables show: what makes a peer of a model, at the strength it is compared at."""


def _node(module: str, name: str, *arguments: Any) -> Any:
    """The MODEL that a node of ComfyUI gives."""
    node = getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name)
    return node.execute(*arguments)[0]
