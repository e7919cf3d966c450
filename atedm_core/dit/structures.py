"""What a pass of each family of diffusion transformers costs, from its widths and depths: the parts of its `flops`."""

from __future__ import annotations

from .flops import TransformerStructure

_TIME_FREQUENCIES = 256
# Multiply-adds per token and width^2 of a block: four projections of attention, and there and back to 4 x the width.
_BLOCK = 12
_MODULATION = 6


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


def lumina_structure(
    width: int = 2304,
    blocks: int = 26,
    refiners: int = 2,
    context_width: int = 2304,
    *,
    key_width: int = 768,
    hidden: int = 9216,
    vector_width: int = 1024,
    time_width: int = 1024,
    channels: int = 16,
    summary: int | None = None,
    multiple: int = 1,
) -> TransformerStructure:
    """Lumina Image 2.0 (the defaults) and Z-Image: blocks of text and image together, after refiners of either alone.

    The image's refiners run on all tokens in every step.

    Args:
        width: channels of a token.
        blocks: of text and image.
        refiners: of the image, and as many of the text.
        context_width: channels of the prompt.
        key_width: channels of all keys; with fewer heads than queries have, less than `width`.
        hidden: of a block's gated layers.
        vector_width: channels that modulations are made from.
        time_width: of the noise level's embedding.
        channels: of the latent.
        summary: channels of the text's summary, `None` without one.
        multiple: of tokens that image and text are filled up to.
    """
    square, patch = width**2, 4 * channels
    block = 2 * (square + width * key_width) + 3 * width * hidden
    fixed = (blocks + refiners) * 4 * vector_width * width + vector_width * width
    fixed += _TIME_FREQUENCIES * time_width + time_width * vector_width
    if summary is not None:
        fixed += summary**2 + (time_width + summary) * time_width
    return TransformerStructure(
        width,
        image_macs=blocks * block,
        text_macs=(blocks + refiners) * block + context_width * width + patch * width,
        joint_attentions=blocks,
        input_macs=patch * width + refiners * block,
        output_macs=patch * width,
        fixed_macs=fixed,
        input_attentions=refiners,
        text_pair_macs=refiners * 2 * width,
        multiple=multiple,
    )


def anima_structure(
    width: int = 2048, blocks: int = 28, context_width: int = 1024, channels: int = 16, modulation: int = 256
) -> TransformerStructure:
    """Anima: self-attention, cross-attention to the text, and modulations through `modulation` channels."""
    square = width**2
    low_rank = blocks * 3 * (width + 3 * width) * modulation + (width + 2 * width) * modulation
    return TransformerStructure(
        width,
        image_macs=blocks * (_BLOCK + 2) * square,
        text_macs=blocks * 2 * context_width * width,
        image_attentions=blocks,
        cross_attentions=blocks,
        # a channel that says where the latent is padding comes with the others
        input_macs=4 * (channels + 1) * width,
        output_macs=4 * channels * width,
        fixed_macs=4 * square + low_rank,
    )


def krea2_structure(
    width: int = 6144,
    blocks: int = 28,
    context_width: int = 2560,
    *,
    key_width: int = 1536,
    hidden: int = 16384,
    text_key_width: int = 2560,
    text_hidden: int = 6912,
    text_layers: int = 12,
    channels: int = 16,
    time_width: int = 256,
) -> TransformerStructure:
    """Krea 2: blocks of text and image together, with gated attention, after blocks that join the layers of the text.

    Args:
        width: channels of a token.
        blocks: of text and image.
        context_width: channels of one layer of the prompt.
        key_width: channels of all keys; with fewer heads than queries have, less than `width`.
        hidden: of a block's gated layers.
        text_key_width: as `key_width`, where the text's layers are joined.
        text_hidden: as `hidden`, there.
        text_layers: of the text encoder, each a token there.
        channels: of the latent.
        time_width: frequencies of the noise level.
    """
    square, patch, joining = width**2, 4 * channels, 2
    block = 3 * square + 2 * width * key_width + 3 * width * hidden
    text_block = 3 * context_width**2 + 2 * context_width * text_key_width + 3 * context_width * text_hidden
    # two blocks over the layers of each word, their sum, and two over the words
    text = joining * (text_layers * text_block + text_layers**2 * 2 * context_width)
    text += text_layers * context_width + joining * text_block + context_width * width + square
    return TransformerStructure(
        width,
        image_macs=blocks * block,
        text_macs=blocks * block + text + patch * width,
        joint_attentions=blocks,
        input_macs=patch * width,
        output_macs=patch * width,
        fixed_macs=time_width * width + 7 * square,
        text_pair_macs=joining * 2 * context_width,
    )


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
