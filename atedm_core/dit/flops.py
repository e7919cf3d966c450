"""Floating-point operations of a diffusion transformer, full and pruned by CAT Pruning, in closed form.

Two operations per multiply-add, one sample, no guidance. Counted is what `torch.utils.flop_counter` counts: matrix
products, convolutions and attention. What choosing tokens costs is in `choosing_flops`.
"""

from __future__ import annotations

from dataclasses import dataclass


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
        input_attentions: of the image over itself before the blocks, of all tokens.
        text_pair_macs: for every pair of text tokens, in attentions of the text over itself before the blocks.
        multiple: image and text are each filled up to a multiple of so many tokens, which all steps compute.
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
    input_attentions: int = 0
    text_pair_macs: int = 0
    multiple: int = 1


def transformer_flops(structure: TransformerStructure, tokens: int, text_tokens: int, kept: int | None = None) -> int:
    """One pass for one sample.

    Args:
        structure: of the model.
        tokens: image tokens.
        text_tokens: text tokens of the prompt.
        kept: image tokens computed in the blocks; `None` for all.
    """
    filling = -tokens % structure.multiple
    kept = filling + (tokens if kept is None else kept)
    tokens += filling
    text = text_tokens + structure.registers
    text += -text % structure.multiple
    linear = kept * structure.image_macs + text * structure.text_macs
    linear += tokens * structure.input_macs + kept * structure.output_macs + structure.fixed_macs
    pairs = structure.joint_attentions * (kept + text) * (tokens + text)
    pairs += structure.image_attentions * kept * tokens + structure.cross_attentions * kept * text
    pairs += structure.input_attentions * tokens * tokens
    return 2 * (linear + 2 * structure.width * pairs + structure.text_pair_macs * text * text)
