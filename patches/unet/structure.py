"""Reads a ComfyUI U-Net's structure off the model itself: attention blocks, stages, and what the rest costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import comfy.ldm.modules.attention
from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, ResBlock, UNetModel, Upsample, VideoResBlock
from torch import nn

from ...atedm_core.unet.structure import AttentionBlock, Part, UNetStructure, stage_ends

SUPPORTED = "Stable Diffusion 1.x, 2.x, SDXL, the SDXL refiner, SSD-1B and Segmind Vega"


def supported_unet(model: Any, node: str = "AT-EDM Apply") -> UNetModel:
    """The U-Net of a MODEL that was given to a node of that name.

    Raises:
        ValueError: the MODEL holds something else; the message says what to do, what is supported and what it got.
    """
    unet, family = model.get_model_object("diffusion_model"), type(model.model).__name__
    got = f"This model is {family} ({type(unet).__name__})"
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"Take {node} out of this model's path: for a transformer use CAT Pruning Apply, for any model AT-EDM Auto "
            f"or Step Forecast Apply. {node} works on image U-Nets: {SUPPORTED}. {got}."
        )
    if any(isinstance(module, (SpatialVideoTransformer, VideoResBlock)) for module in unet.modules()):
        raise ValueError(
            f"Take {node} out of this model's path and use AT-EDM Auto or Step Forecast Apply: this is a video U-Net, "
            f"whose attention also runs across frames, and {node} works on image U-Nets: {SUPPORTED}. {got}."
        )
    if not any(is_prunable(module) for module in unet.modules()):
        raise ValueError(
            f"Take {node} out of this model's path and use AT-EDM Auto or Step Forecast Apply: this U-Net has no "
            f"attention blocks of the usual kind (self-attention, text cross-attention, feed-forward), so there is "
            f"nothing to prune. {node} works on {SUPPORTED}. {got}."
        )
    return unet


def is_prunable(module: Any) -> bool:
    """Whether a module is an attention block whose layers are all of the plain kind."""
    return type(module) is SpatialTransformer and all(_is_plain_layer(layer) for layer in module.transformer_blocks)


def _is_plain_layer(layer: Any) -> bool:
    if not isinstance(layer, BasicTransformerBlock) or layer.attn2 is None:
        return False
    return not (layer.ff_in or layer.disable_self_attn or layer.switch_temporal_ca_to_sa)


def foreign_code(block: SpatialTransformer) -> str | None:
    """The module of whoever replaced the whole `forward` of an attention block or of one of its layers; else `None`.

    Such code may count on all tokens. It can come and go with every model call, so it is looked for in each.
    """
    found = (_foreign_forward(module) for module in (block, *block.transformer_blocks))
    return next((name for name in found if name is not None), None)


def _foreign_forward(module: nn.Module) -> str | None:
    # The host leaves the module's own method behind as an attribute where it has undone a patch.
    forward = vars(module).get("forward") or type(module).forward
    function = getattr(forward, "__func__", forward)
    if getattr(function, "__globals__", None) is vars(comfy.ldm.modules.attention):
        return None
    compiled = getattr(module, "_orig_mod", None)
    if compiled is not None:
        return _foreign_forward(compiled)
    return str(getattr(function, "__module__", None) or type(function).__module__)


def describe_unet(unet: UNetModel) -> UNetStructure:
    """The structure of a U-Net that `supported_unet` accepted."""
    blocks: list[AttentionBlock] = []
    other_macs = {0: _convolution_macs(unet.out)}
    fixed_macs = _linear_macs(unet.time_embed)
    if isinstance(getattr(unet, "label_emb", None), nn.Module):
        fixed_macs += _linear_macs(unet.label_emb)
    level = 0
    for part, index, modules in _blocks(unet):
        for module in modules:
            if is_prunable(module):
                blocks.append(_attention_block(module, part, index, level))
            elif not isinstance(module, SpatialTransformer):
                level += _level_change(module)
                other_macs[level] = other_macs.get(level, 0) + _convolution_macs(module)
                fixed_macs += _linear_macs(module)
    ends = stage_ends([(block.part, block.level) for block in blocks])
    marked = tuple(replace(block, ends_stage=end) for block, end in zip(blocks, ends, strict=True))
    return UNetStructure(marked, tuple(other_macs.get(i, 0) for i in range(max(other_macs) + 1)), fixed_macs)


def _blocks(unet: UNetModel) -> Iterator[tuple[Part, int, Any]]:
    yield from (("input", index, block) for index, block in enumerate(unet.input_blocks))
    if unet.middle_block is not None:
        yield "middle", 0, unet.middle_block
    yield from (("output", index, block) for index, block in enumerate(unet.output_blocks))


def _level_change(module: nn.Module) -> int:
    """+1 where a module halves the feature map, -1 where it doubles it."""
    if isinstance(module, ResBlock) and module.updown:
        module = module.h_upd
    return int(isinstance(module, Downsample)) - int(isinstance(module, Upsample))


def _attention_block(module: SpatialTransformer, part: Part, index: int, level: int) -> AttentionBlock:
    layers, first = module.transformer_blocks, module.transformer_blocks[0]
    width, context_width = first.n_heads * first.d_head, first.attn2.to_k.in_features
    return AttentionBlock(
        part, index, level, len(layers), module.in_channels, width, heads=first.n_heads, context_width=context_width
    )


def _convolution_macs(module: nn.Module) -> int:
    """Multiply-adds per output position of every convolution in `module`; sizes only, weights are not touched."""
    found = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    return sum(m.in_channels * m.out_channels * prod(m.kernel_size) // m.groups for m in found)


def _linear_macs(module: nn.Module) -> int:
    return sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))
