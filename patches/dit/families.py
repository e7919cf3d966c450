"""The diffusion transformers that CAT Pruning runs on selected tokens: where their image tokens come in and go out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.aura.mmdit
import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.modules.attention
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.pixart.blocks
import comfy.ldm.pixart.pixartms
import comfy.ldm.qwen_image.model
from torch import Tensor

from ...atedm_core.dit.flops import (
    TransformerStructure,
    auraflow_structure,
    chroma_guidance_macs,
    flux2_structure,
    flux_structure,
    pixart_structure,
    qwen_image_structure,
    sd3_structure,
)

Attend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Any]]


@dataclass(frozen=True)
class Family:
    """One kind of diffusion transformer.

    Its tokens are the places of a grid of `model.patch_size` x `model.patch_size` latent pixels. Where text and image
    are attended to together, the text comes first.

    Attributes:
        name: as users know it.
        kind: the host's class.
        first_block: path of the first module that gets the image tokens with all that is added to them.
        tokens: which of its arguments they are.
        final: path of the module whose output is each token's part of the picture.
        attentions: how many attentions see image tokens as keys, in one call.
        positions: path of the module that makes the rotary positions of text and image, if there is one.
        control: whether the host adds a ControlNet's residuals to the tokens that the blocks carry.
        attend: puts keys and values through a function in the model's attention layers, for a host that keeps
            `transformer_options` from them; otherwise the host's `optimized_attention_override` does.
        noise: the part of a token's output that the sampler uses.
        structure: what the cost of a pass depends on.
        unsupported: says what is wrong with a model of this kind that cannot be pruned all the same.
    """

    name: str
    kind: type
    first_block: str
    tokens: int | str
    final: str
    attentions: Callable[[Any], int]
    structure: Callable[[Any], TransformerStructure]
    positions: str | None = None
    control: bool = False
    attend: Callable[[Any, Attend], AbstractContextManager[None]] | None = None
    noise: Callable[[Any, Tensor], Tensor] = lambda model, output: output
    unsupported: Callable[[Any], str | None] = lambda model: None

    def blocks(self, model: Any) -> list[Any]:
        """The blocks that the first one stands among."""
        return list(model.get_submodule(self.first_block.rpartition(".")[0]))

    def block_kinds(self, model: Any) -> tuple[type, ...]:
        """Their classes; a compiled block counts as what it compiles."""
        return tuple(type(getattr(block, "_orig_mod", block)) for block in self.blocks(model))

    def grid(self, model: Any, latent: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in tokens of a latent of (height, width); a part of a patch counts as one."""
        return -(-latent[0] // model.patch_size), -(-latent[1] // model.patch_size)


def _sd3_attentions(model: Any) -> int:
    return sum(1 + block.x_block.x_block_self_attn for block in model.joint_blocks)


def _sd3_structure(model: Any) -> TransformerStructure:
    blocks = len(model.joint_blocks)
    return sd3_structure(model.hidden_size, blocks, _sd3_attentions(model) - blocks, model.context_embedder.in_features)


def _pixart_structure(model: Any) -> TransformerStructure:
    return pixart_structure(model.hidden_size, len(model.blocks), model.y_embedder.y_proj.fc1.in_features)


def _flux_structure(model: Any, **fixed: int) -> TransformerStructure:
    params = model.params
    sizes = (model.hidden_size, len(model.double_blocks), len(model.single_blocks), params.context_in_dim)
    guidance = getattr(params, "guidance_embed", False)
    if getattr(params, "global_modulation", False):
        return flux2_structure(*sizes, guidance=guidance, channels=model.in_channels)
    return flux_structure(*sizes, guidance=guidance, vector_width=params.vec_in_dim, **fixed)


def _chroma_structure(model: Any) -> TransformerStructure:
    guidance = chroma_guidance_macs(model.out_dim, model.hidden_dim, model.n_layers, model.in_dim)
    return _flux_structure(model, fixed_macs=guidance)


def _auraflow_structure(model: Any) -> TransformerStructure:
    blocks, text = (len(model.double_layers), len(model.single_layers)), model.cond_seq_linear
    return auraflow_structure(text.out_features, *blocks, text.in_features)


def _qwen_image_structure(model: Any) -> TransformerStructure:
    return qwen_image_structure(model.inner_dim, len(model.transformer_blocks), model.txt_in.in_features)


@contextmanager
def _pixart_attend(model: Any, attend: Attend) -> Iterator[None]:
    """PixArt drops `transformer_options`, so its self-attention is run from here, with its own layers."""
    layers = [block.attn for block in model.blocks]
    before = [dict(vars(layer)) for layer in layers]
    try:
        for layer in layers:
            layer.forward = _pixart_attention(layer, attend)
        yield
    finally:
        for layer, attributes in zip(layers, before, strict=True):
            del layer.forward
            if "forward" in attributes:
                layer.forward = attributes["forward"]


def _pixart_attention(layer: Any, attend: Attend) -> Callable[..., Tensor]:
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


def _pixart_noise(model: Any, output: Tensor) -> Tensor:
    """The predicted noise without the variance that PixArt predicts beside it."""
    by_pixel = output.unflatten(-1, (-1, model.out_channels))
    return by_pixel[..., : model.in_channels].flatten(-2)


def _pixart_unsupported(model: Any) -> str | None:
    if any(block.attn.sr_ratio > 1 for block in model.blocks):
        return "its keys and values are compressed"
    own = comfy.ldm.pixart.blocks.AttentionKVCompress.forward
    # The host leaves the layer's own method behind as an attribute where it has undone a patch.
    if any(getattr(block.attn.forward, "__func__", None) is not own for block in model.blocks):
        return "another node replaces its self-attention"
    return None


# Flux.1, Flux.2 and LongCat-Image are one class of the host's.
_FLUX = Family(
    "Flux",
    comfy.ldm.flux.model.Flux,
    first_block="double_blocks.0",
    tokens="img",
    final="final_layer",
    attentions=lambda model: len(model.double_blocks) + len(model.single_blocks),
    structure=_flux_structure,
    positions="pe_embedder",
)
_CHROMA = replace(
    _FLUX,
    name="Chroma",
    kind=comfy.ldm.chroma.model.Chroma,
    structure=_chroma_structure,
    unsupported=lambda model: "some of its blocks are left out" if model.skip_mmdit or model.skip_dit else None,
)

FAMILIES = (
    Family(
        "SD3",
        comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper,
        first_block="joint_blocks.0",
        tokens=1,
        final="final_layer",
        attentions=_sd3_attentions,
        structure=_sd3_structure,
        control=True,
    ),
    Family(
        "PixArt",
        comfy.ldm.pixart.pixartms.PixArtMS,
        first_block="blocks.0",
        tokens=0,
        final="final_layer",
        attentions=lambda model: len(model.blocks),
        structure=_pixart_structure,
        attend=_pixart_attend,
        noise=_pixart_noise,
        unsupported=_pixart_unsupported,
    ),
    _FLUX,
    _CHROMA,
    Family(
        "AuraFlow",
        comfy.ldm.aura.mmdit.MMDiT,
        first_block="double_layers.0",
        tokens=1,
        final="final_linear",
        attentions=lambda model: len(model.double_layers) + len(model.single_layers),
        structure=_auraflow_structure,
    ),
    Family(
        "Qwen-Image",
        comfy.ldm.qwen_image.model.QwenImageTransformer2DModel,
        first_block="transformer_blocks.0",
        tokens="hidden_states",
        final="proj_out",
        attentions=lambda model: len(model.transformer_blocks),
        structure=_qwen_image_structure,
        positions="pe_embedder",
    ),
)


def family_of(model: Any) -> Family | None:
    """The family of a diffusion model (not a ComfyUI MODEL), `None` if it is of no supported kind."""
    return next((family for family in FAMILIES if type(model) is family.kind), None)
