"""Widths and depths of a model of each family, read off the host's modules, as what a pass of it costs."""

from __future__ import annotations

from typing import Any

from ...atedm_core.dit.flops import TransformerStructure
from ...atedm_core.dit.structures import (
    anima_structure,
    auraflow_structure,
    chroma_guidance_macs,
    flux2_structure,
    flux_structure,
    krea2_structure,
    lumina_structure,
    pixart_structure,
    qwen_image_structure,
    sd3_structure,
)


def sd3_attentions(model: Any) -> int:
    """How many attentions an SD3 has."""
    return sum(1 + block.x_block.x_block_self_attn for block in model.joint_blocks)


def sd3_model(model: Any) -> TransformerStructure:
    """SD3 and SD3.5."""
    blocks = len(model.joint_blocks)
    return sd3_structure(model.hidden_size, blocks, sd3_attentions(model) - blocks, model.context_embedder.in_features)


def pixart_model(model: Any) -> TransformerStructure:
    """PixArt-alpha and PixArt-Sigma."""
    return pixart_structure(model.hidden_size, len(model.blocks), model.y_embedder.y_proj.fc1.in_features)


def flux_model(model: Any, **fixed: int) -> TransformerStructure:
    """Flux.1, Flux.2 and LongCat-Image."""
    params = model.params
    sizes = (model.hidden_size, len(model.double_blocks), len(model.single_blocks), params.context_in_dim)
    guidance = getattr(params, "guidance_embed", False)
    if getattr(params, "global_modulation", False):
        return flux2_structure(*sizes, guidance=guidance, channels=model.in_channels)
    return flux_structure(*sizes, guidance=guidance, vector_width=params.vec_in_dim, **fixed)


def chroma_model(model: Any) -> TransformerStructure:
    """Chroma."""
    guidance = chroma_guidance_macs(model.out_dim, model.hidden_dim, model.n_layers, model.in_dim)
    return flux_model(model, fixed_macs=guidance)


def auraflow_model(model: Any) -> TransformerStructure:
    """AuraFlow."""
    blocks, text = (len(model.double_layers), len(model.single_layers)), model.cond_seq_linear
    return auraflow_structure(text.out_features, *blocks, text.in_features)


def qwen_image_model(model: Any) -> TransformerStructure:
    """Qwen-Image."""
    return qwen_image_structure(model.inner_dim, len(model.transformer_blocks), model.txt_in.in_features)


def lumina_model(model: Any) -> TransformerStructure:
    """Lumina Image 2.0 and Z-Image."""
    layer, embedder = model.layers[0], model.t_embedder.mlp
    # older versions of the host know nothing of a summary, nor of tokens to fill up with
    summary, multiple = (getattr(model, name, None) for name in ("clip_text_pooled_proj", "pad_tokens_multiple"))
    return lumina_structure(
        model.dim,
        len(model.layers),
        len(model.noise_refiner),
        model.cap_embedder[-1].in_features,
        key_width=layer.attention.n_kv_heads * layer.attention.head_dim,
        hidden=layer.feed_forward.w1.out_features,
        vector_width=layer.adaLN_modulation[-1].in_features,
        time_width=embedder[0].out_features,
        channels=model.in_channels,
        summary=None if summary is None else model.clip_text_dim,
        multiple=multiple or 1,
    )


def anima_model(model: Any) -> TransformerStructure:
    """Anima."""
    text = model.blocks[0].cross_attn.context_dim
    return anima_structure(model.model_channels, len(model.blocks), text, model.out_channels, model.adaln_lora_dim)


def krea2_model(model: Any) -> TransformerStructure:
    """Krea 2."""
    block, text = model.blocks[0], model.txtfusion.refiner_blocks[0]
    return krea2_structure(
        block.attn.wq.in_features,
        len(model.blocks),
        model.txtdim,
        key_width=block.attn.wk.out_features,
        hidden=block.mlp.up.out_features,
        text_key_width=text.attn.wk.out_features,
        text_hidden=text.mlp.up.out_features,
        text_layers=model.txtlayers,
        channels=model.channels,
        time_width=model.tdim,
    )
