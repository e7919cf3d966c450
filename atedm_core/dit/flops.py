"""Floating-point operations of a diffusion transformer, full and pruned by CAT Pruning, in closed form.

Two operations per multiply-add, one sample, no guidance. Counted is what `torch.utils.flop_counter` counts: matrix
products, convolutions and attention. The pack's own work (choosing, gathering, merging keys) is measured instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from .schedule import CATSchedule
from .selection import CATSelection

_TIME_FREQUENCIES = 256
# Multiply-adds per token and width^2 of a block: four projections of attention, and there and back to 4 x the width.
_BLOCK = 12
_MODULATION = 6


@dataclass(frozen=True)
class TransformerStructure:
    """What the cost of one pass depends on. Multiply-adds are those of the linear layers.

    Attributes:
        width: channels of a token.
        image_macs: per image token, in all blocks together.
        text_macs: per text token, likewise, its embedding included.
        joint_attentions: attentions of image and text over image and text.
        image_attentions: of the image over itself.
        cross_attentions: of the image over the text.
        input_macs: per image token before the blocks; every step needs all of them.
        output_macs: per image token after the blocks.
        fixed_macs: per sample, however many tokens there are.
        registers: tokens that the model adds to the text.
    """

    width: int
    image_macs: int
    text_macs: int
    joint_attentions: int = 0
    image_attentions: int = 0
    cross_attentions: int = 0
    input_macs: int = 0
    output_macs: int = 0
    fixed_macs: int = 0
    registers: int = 0


def transformer_flops(structure: TransformerStructure, tokens: int, text_tokens: int, kept: int | None = None) -> int:
    """One pass for one sample.

    Args:
        structure: of the model.
        tokens: image tokens.
        text_tokens: text tokens of the prompt.
        kept: image tokens computed in the blocks; `None` for all.
    """
    kept = tokens if kept is None else kept
    text = text_tokens + structure.registers
    linear = kept * structure.image_macs + text * structure.text_macs
    linear += tokens * structure.input_macs + kept * structure.output_macs + structure.fixed_macs
    pairs = structure.joint_attentions * (kept + text) * (tokens + text)
    pairs += structure.image_attentions * kept * tokens + structure.cross_attentions * kept * text
    return 2 * (linear + 2 * structure.width * pairs)


def run_flops(
    structure: TransformerStructure,
    tokens: int,
    text_tokens: int,
    steps: int,
    selection: CATSelection | None = None,
    schedule: CATSchedule | None = None,
) -> int:
    """A run of `steps` for one sample and one condition, one pass a step; without a selection unpruned."""
    full = transformer_flops(structure, tokens, text_tokens)
    if selection is None:
        return steps * full
    pruned = (schedule or CATSchedule()).pruned_steps(steps)
    return (steps - pruned) * full + pruned * transformer_flops(structure, tokens, text_tokens, selection.kept(tokens))


def sd3_structure(
    width: int = 1536, blocks: int = 24, double_attention_blocks: int = 0, context_width: int = 4096, channels: int = 16
) -> TransformerStructure:
    """SD3 and SD3.5: joint blocks, of which the last leaves the text as it is; some with a second image attention.

    Defaults are SD3-medium's; SD3.5-medium has 13 double attention blocks, SD3.5-large 38 blocks of width 2432.
    """
    square = width**2
    image_modulation = blocks * _MODULATION + 3 * double_attention_blocks
    text_modulation = (blocks - 1) * _MODULATION + 2
    vector_width = 2048
    embeddings = _TIME_FREQUENCIES * width + vector_width * width + 2 * square
    return TransformerStructure(
        width,
        image_macs=(blocks * _BLOCK + 4 * double_attention_blocks) * square,
        text_macs=((blocks - 1) * _BLOCK + 3) * square + context_width * width,
        joint_attentions=blocks,
        image_attentions=double_attention_blocks,
        input_macs=4 * channels * width,
        output_macs=4 * channels * width,
        fixed_macs=(image_modulation + text_modulation + 2) * square + embeddings,
    )


def pixart_structure(width: int = 1152, blocks: int = 28, context_width: int = 4096) -> TransformerStructure:
    """PixArt-Sigma, and PixArt-alpha but for the small network that is told the picture's size."""
    square, channels = width**2, 4
    return TransformerStructure(
        width,
        image_macs=blocks * (_BLOCK + 2) * square,
        text_macs=blocks * 2 * square + context_width * width + square,
        image_attentions=blocks,
        cross_attentions=blocks,
        input_macs=4 * channels * width,
        output_macs=8 * channels * width,
        fixed_macs=(_MODULATION + 1) * square + _TIME_FREQUENCIES * width,
    )


def flux_structure(
    width: int = 3072,
    double_blocks: int = 19,
    single_blocks: int = 38,
    context_width: int = 4096,
    *,
    guidance: bool = True,
    vector_width: int | None = 768,
    fixed_macs: int | None = None,
) -> TransformerStructure:
    """Flux.1: two streams, then one. Chroma is the same with a `fixed_macs` of its own in place of modulations.

    LongCat-Image is too, with 10 and 20 blocks, and neither guidance nor a summary of the text (`vector_width` `None`).
    """
    square = width**2
    if fixed_macs is None:
        embeddings = (_TIME_FREQUENCIES * width + square) * (1 + guidance)
        embeddings += 0 if vector_width is None else vector_width * width + square
        fixed_macs = (double_blocks * 2 * _MODULATION + single_blocks * 3 + 2) * square + embeddings
    return _joint(width, double_blocks + single_blocks, _BLOCK * square, context_width, fixed_macs)


def flux2_structure(
    width: int = 6144,
    double_blocks: int = 8,
    single_blocks: int = 48,
    context_width: int = 15360,
    *,
    guidance: bool = True,
    channels: int = 128,
) -> TransformerStructure:
    """Flux.2: Flux.1 with gated layers of three times the width, and modulations that all blocks share."""
    square = width**2
    fixed = (2 * _MODULATION + 3 + 2) * square + (_TIME_FREQUENCIES * width + square) * (1 + guidance)
    # a token is a latent pixel there, and a square of four elsewhere
    blocks = double_blocks + single_blocks
    return _joint(width, blocks, (_BLOCK + 1) * square, context_width, fixed, channels=channels // 4)


def chroma_guidance_macs(width: int = 3072, hidden: int = 5120, layers: int = 5, inputs: int = 64) -> int:
    """Chroma's one network for all modulations, run on 344 vectors."""
    return 344 * (inputs * hidden + layers * 2 * hidden**2 + hidden * width)


def auraflow_structure(
    width: int = 3072, double_blocks: int = 4, single_blocks: int = 32, context_width: int = 2048
) -> TransformerStructure:
    """AuraFlow: two streams, then one, eight registers before the text, and gated layers of 8/3 of the width."""
    square = width**2
    gated = 3 * width * (-(-int(8 * width / 3) // 256) * 256)
    fixed = (double_blocks * 2 * _MODULATION + single_blocks * _MODULATION + 3) * square + _TIME_FREQUENCIES * width
    blocks = double_blocks + single_blocks
    return _joint(width, blocks, 4 * square + gated, context_width, fixed, channels=4, registers=8)


def qwen_image_structure(width: int = 3072, blocks: int = 60, context_width: int = 3584) -> TransformerStructure:
    """Qwen-Image: joint blocks of two streams."""
    square = width**2
    fixed = (blocks * 2 * _MODULATION + 3) * square + _TIME_FREQUENCIES * width
    return _joint(width, blocks, _BLOCK * square, context_width, fixed)


def _joint(
    width: int, blocks: int, block_macs: int, context_width: int, fixed: int, channels: int = 16, registers: int = 0
) -> TransformerStructure:
    """Blocks that cost a text token as much as an image token."""
    return TransformerStructure(
        width,
        image_macs=blocks * block_macs,
        text_macs=blocks * block_macs + context_width * width,
        joint_attentions=blocks,
        input_macs=4 * channels * width,
        output_macs=4 * channels * width,
        fixed_macs=fixed,
        registers=registers,
    )
