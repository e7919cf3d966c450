"""The handler for one attention block: the host's own layers, on all tokens first and then on those that matter."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from torch import Tensor

from ..atedm_core.cost import prune_point
from ..atedm_core.pruning import choose_tokens
from ..atedm_core.recovery import recover
from ..atedm_core.unet import AttentionBlock
from .attention_view import AttentionView
from .full_grid import (
    Options,
    TokenGrid,
    append_patch,
    on_full_grid,
    touches_cross_attention,
    touches_self_attention,
)
from .run import OBSERVERS_KEY, RUN_KEY, PruneEvent, PruneRun, tally


def attention_block_handler(
    layer: SpatialTransformer,
    x: Tensor,
    emb: Tensor,
    context: Any,
    transformer_options: Options,
    *host_arguments: Any,
) -> Tensor:
    """What ComfyUI calls in place of an attention block, through its `forward_timestep_embed_patch`."""
    if isinstance(layer, SpatialVideoTransformer):
        _, *video_arguments = host_arguments
        out = layer(x, context, *video_arguments, transformer_options)
    else:
        out = _run_block(layer, x, context, transformer_options)
    # The host counts attention blocks here, and IP-Adapter reads the count.
    if "transformer_index" in transformer_options:
        transformer_options["transformer_index"] += 1
    return out


def _run_block(layer: SpatialTransformer, x: Tensor, context: Any, options: Options) -> Tensor:
    run: PruneRun | None = options.get(RUN_KEY)
    block = run.block(options) if run is not None else None
    progress = run.progress(options) if run is not None else None
    if run is None or block is None or progress is None or not _is(block, layer):
        return layer(x, context, options)
    tokens = x.shape[-2] * x.shape[-1]
    keep = run.keep(tokens, block, progress)
    contexts = context if isinstance(context, list) else [context] * block.layers
    conditions = _conditions(options, x.shape[0])
    on_grid = {}
    if keep == tokens:
        out = layer(x, context, options)
    else:
        on_grid = {
            "self_on_grid": touches_self_attention(options, block.layers - 1),
            "cross_on_grid": touches_cross_attention(options, block.layers - 1),
        }
        out, event = _run_pruned(layer, x, contexts, options, run, block, keep, progress)
        for observer in options.get(OBSERVERS_KEY, ()):
            observer.pruned(event)
    context_tokens = contexts[0].shape[1]
    samples = x.shape[0] // len(conditions)
    run.record(conditions, block, tally(block, samples, tokens, keep, context_tokens, **on_grid))
    return out


def _is(block: AttentionBlock, layer: SpatialTransformer) -> bool:
    """Whether the module that is running is the block in its place: another pack may run a U-Net of its own inside."""
    return len(layer.transformer_blocks) == block.layers and layer.in_channels == block.channels


def _conditions(options: Options, samples: int) -> list[Hashable]:
    """Whose samples are in the batch, in order.

    A wrapper that saves memory may call the model for a part of the conditions and still name them all. Where they
    cannot be told apart, they count as one.
    """
    uuids = list(options.get("uuids") or [None])
    return uuids if samples % len(uuids) == 0 else [tuple(uuids)]


def _run_pruned(
    layer: SpatialTransformer,
    x: Tensor,
    contexts: list[Tensor],
    options: Options,
    run: PruneRun,
    block: Any,
    keep: int,
    progress: float,
) -> tuple[Tensor, PruneEvent]:
    settings = run.method.settings
    options["activations_shape"] = list(x.shape)
    grid = (x.shape[-2], x.shape[-1])
    tokens = TokenGrid()
    hidden = _enter(layer, x)
    by_cross = settings.ranking == "cross-attention"
    view = AttentionView(layer.transformer_blocks[0], hidden, contexts[0], by_cross)
    at_pruning: list[Tensor] = []

    def prune(hidden: Tensor, extra_options: Options | None = None) -> Tensor:
        cross = view.cross_attention() if by_cross else None
        tokens.subset = choose_tokens(settings, keep, grid, hidden, view.self_attention(), cross)
        at_pruning.append(hidden)
        return tokens.subset.gather(hidden)

    for index, transformer_block in enumerate(layer.transformer_blocks):
        options["block_index"] = index
        layer_options = on_full_grid(options, index, tokens)
        if index == 0:
            layer_options = view.watch(layer_options)
            if prune_point(block.layers) == "inside first layer":
                layer_options = append_patch(layer_options, "middle_patch", prune)
        hidden = transformer_block(hidden, context=contexts[index], transformer_options=layer_options)
        if index == 0 and tokens.subset is None:
            hidden = prune(hidden)
    subset = tokens.subset
    assert subset is not None
    hidden = recover(settings.recovery, subset, at_pruning[0], hidden, grid)
    uuids = tuple(options.get("uuids") or ())
    return _leave(layer, hidden, x), PruneEvent(block, progress, grid, subset, uuids)


def _enter(layer: SpatialTransformer, x: Tensor) -> Tensor:
    """Feature map `[B, C, h, w]` to hidden states `[B, h * w, width]`, with the block's own norm and projection."""
    normed = layer.norm(x)
    if layer.use_linear:
        return layer.proj_in(normed.flatten(2).transpose(1, 2).contiguous())
    return layer.proj_in(normed).flatten(2).transpose(1, 2).contiguous()


def _leave(layer: SpatialTransformer, hidden: Tensor, x: Tensor) -> Tensor:
    """Hidden states back to a feature map, with the block's own projection and residual."""
    height, width = x.shape[-2:]
    if layer.use_linear:
        hidden = layer.proj_out(hidden)
    out = hidden.transpose(1, 2).unflatten(2, (height, width)).contiguous()
    if not layer.use_linear:
        out = layer.proj_out(out)
    return out + x
