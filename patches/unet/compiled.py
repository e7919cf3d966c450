"""Attention blocks under torch.compile: the host's layers are compiled by themselves, inside the handler.

The handler chooses tokens, which a compiler had better not see, so the compiled U-Net breaks off where a block begins.
Left at that, everything inside a block, most of the model, would run uncompiled. All layers of a model are alike, so
one function that runs any of them is compiled, as the user asked for it (ComfyUI's TorchCompileModel), and PyTorch
makes a program for each width and kind of layer, on all tokens or on those that stay, and uses it in every step.

Layers that another node's patches look into run as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .full_grid import Options
from .weighted_attention import Channels, attend_weighted

_WRAPPER_KEY = "torch.compile"
_ARGUMENTS_KEY = "torch_compile_kwargs"
_LAYER_PATCHES = ("attn1_patch", "attn1_output_patch", "middle_patch", "attn2_patch", "attn2_output_patch")

RunLayer = Callable[[Any, Tensor, Tensor, Channels | None], Tensor]
"""A layer's states `[B, K, C]` from (layer, states `[B, K, C]`, text `[B, M, D]`, weights of the kept tokens)."""


def compiled_layers(model: Any) -> RunLayer | None:
    """What runs a layer compiled, for a MODEL that ComfyUI runs compiled; `None` for any other."""
    asked = model.model_options.get(_ARGUMENTS_KEY)
    if asked is None or not model.get_wrappers(WrappersMP.APPLY_MODEL, _WRAPPER_KEY):
        return None
    # How many tokens stay differs between blocks and ratios: one program for all, unless the user wants one for each.
    dynamic = True if asked.get("dynamic") is None else asked["dynamic"]
    whole = torch.compile(_run_layer, **asked)
    weighted = torch.compile(_run_weighted_layer, **{**asked, "dynamic": dynamic})

    def run(layer: Any, hidden: Tensor, context: Tensor, channels: Channels | None) -> Tensor:
        out: Tensor = whole(layer, hidden, context) if channels is None else weighted(layer, hidden, context, *channels)
        return out

    return run


def is_plain(options: Options) -> bool:
    """Whether nobody looks into the layers that run with these options."""
    patches = options.get("patches", {})
    replaced = any(options.get("patches_replace", {}).values())
    return not (replaced or "optimized_attention_override" in options or any(patches.get(n) for n in _LAYER_PATCHES))


def _run_layer(layer: Any, hidden: Tensor, context: Tensor) -> Tensor:
    # Options of the layer's own: those of the run change with every call, and would be compiled into the program.
    out: Tensor = layer(hidden, context=context, transformer_options={})
    return out


def _run_weighted_layer(layer: Any, hidden: Tensor, context: Tensor, asked: Tensor, told: Tensor) -> Tensor:
    weighted = False

    def attend(attention: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        nonlocal weighted
        if weighted:  # cross-attention comes second
            return attention(*args, **kwargs)
        weighted = True
        return attend_weighted(attention, (asked, told), *args, **kwargs)

    out: Tensor = layer(hidden, context=context, transformer_options={"optimized_attention_override": attend})
    return out
