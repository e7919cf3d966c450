"""Reads a ComfyUI U-Net's structure off the model itself: attention blocks, stages, and what the rest costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, ResBlock, UNetModel, Upsample, VideoResBlock
from torch import nn

from ...atedm_core.unet.structure import AttentionBlock, Part, UNetStructure, stage_ends

SUPPORTED = "Stable Diffusion 1.x, 2.x, SDXL, the SDXL refiner, SSD-1B and Segmind Vega"


def supported_unet(model: Any) -> UNetModel:
    """The U-Net of a MODEL.

    Raises:
        ValueError: the MODEL holds something else; the message names what is supported and what it got.
    """
    unet = model.get_model_object("diffusion_model")
    family = type(model.model).__name__
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"model is {family} ({type(unet).__name__}), which AT-EDM cannot prune: it works on image U-Nets "
            f"({SUPPORTED}). Connect such a checkpoint, or take AT-EDM Apply out of this model's path."
        )
    if any(isinstance(module, (SpatialVideoTransformer, VideoResBlock)) for module in unet.modules()):
        raise ValueError(
            f"model is {family}, a video U-Net, whose attention also runs across frames: AT-EDM works on image "
            f"U-Nets ({SUPPORTED}). Connect such a checkpoint, or take AT-EDM Apply out of this model's path."
        )
    if not any(is_prunable(module) for module in unet.modules()):
        raise ValueError(
            f"model is {family}, a U-Net without attention blocks of the usual kind (self-attention, text "
            f"cross-attention, feed-forward), so there is nothing to prune. Supported are {SUPPORTED}."
        )
    return unet


def is_prunable(module: Any) -> bool:
    """Whether a module is an attention block whose layers are all of the plain kind."""
    if type(module) is not SpatialTransformer:
        return False
    return all(_is_plain_layer(layer) for layer in module.transformer_blocks)


def _is_plain_layer(layer: Any) -> bool:
    if not isinstance(layer, BasicTransformerBlock) or layer.attn2 is None:
        return False
    return not (layer.ff_in or layer.disable_self_attn or layer.switch_temporal_ca_to_sa)


def describe_unet(unet: UNetModel) -> UNetStructure:
    """The structure of a U-Net that `supported_unet` accepted."""
    other_macs: dict[int, int] = {}
    found: list[tuple[AttentionBlock, bool]] = []
    fixed_macs = _linear_macs(unet.time_embed)
    if isinstance(getattr(unet, "label_emb", None), nn.Module):
        fixed_macs += _linear_macs(unet.label_emb)
    level = 0
    for part, index, modules in _blocks(unet):
        for module in modules:
            if isinstance(module, SpatialTransformer):
                found.append((_attention_block(module, part, index, level), is_prunable(module)))
                continue
            level += _level_change(module)
            other_macs[level] = other_macs.get(level, 0) + _convolution_macs(module)
            fixed_macs += _linear_macs(module)
    other_macs[0] = other_macs.get(0, 0) + _convolution_macs(unet.out)
    blocks = _mark_stage_ends([block for block, prunable in found if prunable])
    return UNetStructure(blocks, tuple(other_macs.get(i, 0) for i in range(max(other_macs) + 1)), fixed_macs)


def _blocks(unet: UNetModel) -> list[tuple[Part, int, Any]]:
    blocks: list[tuple[Part, int, Any]] = [("input", i, block) for i, block in enumerate(unet.input_blocks)]
    if unet.middle_block is not None:
        blocks.append(("middle", 0, unet.middle_block))
    return blocks + [("output", i, block) for i, block in enumerate(unet.output_blocks)]


def _level_change(module: nn.Module) -> int:
    """+1 where a module halves the feature map, -1 where it doubles it."""
    if isinstance(module, ResBlock) and module.updown:
        module = module.h_upd
    return int(isinstance(module, Downsample)) - int(isinstance(module, Upsample))


def _attention_block(module: SpatialTransformer, part: Part, index: int, level: int) -> AttentionBlock:
    first = module.transformer_blocks[0]
    return AttentionBlock(
        part=part,
        index=index,
        level=level,
        layers=len(module.transformer_blocks),
        channels=module.in_channels,
        width=first.n_heads * first.d_head,
        heads=first.n_heads,
        context_width=first.attn2.to_k.in_features if first.attn2 is not None else 0,
    )


def _mark_stage_ends(blocks: list[AttentionBlock]) -> tuple[AttentionBlock, ...]:
    ends = stage_ends([(block.part, block.level) for block in blocks])
    return tuple(replace(block, ends_stage=end) for block, end in zip(blocks, ends, strict=True))


def _convolution_macs(module: nn.Module) -> int:
    """Multiply-adds per output position of every convolution in `module`; sizes only, weights are not touched."""
    total = 0
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            total += layer.in_channels * layer.out_channels * height * width // layer.groups
    return total


def _linear_macs(module: nn.Module) -> int:
    return sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))
