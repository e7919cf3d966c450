"""The diffusion transformers that CAT Pruning runs on selected tokens: where their image tokens come in and go out."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.aura.mmdit
import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.lumina.model
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.pixart.pixartms
import comfy.ldm.qwen_image.model
from torch import Tensor

from ...atedm_core.dit.flops import TransformerStructure
from . import pixart, widths
from .layout import Layout
from .pixart import Attend


@dataclass(frozen=True)
class Family:
    """One kind of diffusion transformer.

    Its tokens are the places of a grid of square patches of latent pixels. Where text and image are attended to
    together, the text comes first.

    Attributes:
        name: as users know it.
        kind: the host's class.
        first_block: path of the first module that gets the image tokens with all that is added to them.
        tokens: which of its arguments they are.
        final: path of the module whose output is each token's part of the picture.
        attentions: how many attentions from the first block on see image tokens as keys, in one call.
        positions: path of the module that makes the rotary positions of text and image, if there is one.
        block_positions: which argument of every block they are, if no module makes them for text and image at once.
        patch: attribute with the side of a patch.
        in_one: the blocks and the final layer run on text and image in one, the text first.
        every: of so many attentions in a row the first one sees image tokens as keys, and the others only text.
        filling: tokens that the model adds to so many of an image, after them; they are always computed.
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
    block_positions: int | str | None = None
    patch: str = "patch_size"
    in_one: bool = False
    every: int = 1
    filling: Callable[[Any, int], int] = lambda model, tokens: 0
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

    def layout(self, model: Any, tokens: int) -> Layout:
        """How the tokens lie in its blocks, of so many of an image."""
        return Layout(tokens, self.filling(model, tokens), self.in_one, self.every)

    def side(self, model: Any) -> int:
        """Of a patch, in latent pixels."""
        return int(getattr(model, self.patch))

    def grid(self, model: Any, latent: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in tokens of a latent of (height, width); a part of a patch counts as one."""
        side = self.side(model)
        return -(-latent[0] // side), -(-latent[1] // side)


def _lumina_filling(model: Any, tokens: int) -> int:
    return -tokens % (getattr(model, "pad_tokens_multiple", None) or 1)


def _anima_unsupported(model: Any) -> str | None:
    return "its blocks add positions of their own" if model.extra_per_block_abs_pos_emb else None


# Flux.1, Flux.2 and LongCat-Image are one class of the host's.
_FLUX = Family(
    "Flux",
    comfy.ldm.flux.model.Flux,
    first_block="double_blocks.0",
    tokens="img",
    final="final_layer",
    attentions=lambda model: len(model.double_blocks) + len(model.single_blocks),
    structure=widths.flux_model,
    positions="pe_embedder",
)
_CHROMA = replace(
    _FLUX,
    name="Chroma",
    kind=comfy.ldm.chroma.model.Chroma,
    structure=widths.chroma_model,
    unsupported=lambda model: "some of its blocks are left out" if model.skip_mmdit or model.skip_dit else None,
)


def _of_newer_hosts() -> tuple[Family, ...]:
    """Those whose modules older versions of ComfyUI do not have."""
    found = []
    if (anima := _module("comfy.ldm.anima.model")) is not None:
        family = Family(
            "Anima",
            anima.Anima,
            first_block="blocks.0",
            tokens=0,
            final="final_layer",
            attentions=lambda model: len(model.blocks),
            structure=widths.anima_model,
            block_positions="rope_emb_L_1_1_D",
            patch="patch_spatial",
            every=2,
            unsupported=_anima_unsupported,
        )
        found.append(family)
    if (krea2 := _module("comfy.ldm.krea2.model")) is not None:
        family = Family(
            "Krea 2",
            krea2.SingleStreamDiT,
            first_block="blocks.0",
            tokens=0,
            final="last",
            attentions=lambda model: len(model.blocks),
            structure=widths.krea2_model,
            positions="pe_embedder",
            patch="patch",
            in_one=True,
        )
        found.append(family)
    return tuple(found)


def _module(name: str) -> Any:
    """A module of the host, `None` if it has none of this name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


FAMILIES: tuple[Family, ...] = (
    Family(
        "SD3",
        comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper,
        first_block="joint_blocks.0",
        tokens=1,
        final="final_layer",
        attentions=widths.sd3_attentions,
        structure=widths.sd3_model,
        control=True,
    ),
    Family(
        "PixArt",
        comfy.ldm.pixart.pixartms.PixArtMS,
        first_block="blocks.0",
        tokens=0,
        final="final_layer",
        attentions=lambda model: len(model.blocks),
        structure=widths.pixart_model,
        attend=pixart.attended,
        noise=pixart.noise,
        unsupported=pixart.unsupported,
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
        structure=widths.auraflow_model,
    ),
    Family(
        "Qwen-Image",
        comfy.ldm.qwen_image.model.QwenImageTransformer2DModel,
        first_block="transformer_blocks.0",
        tokens="hidden_states",
        final="proj_out",
        attentions=lambda model: len(model.transformer_blocks),
        structure=widths.qwen_image_model,
        positions="pe_embedder",
    ),
    Family(
        "Lumina/Z-Image",  # one class of the host's
        comfy.ldm.lumina.model.NextDiT,
        first_block="layers.0",
        tokens=0,
        final="final_layer",
        attentions=lambda model: len(model.layers),
        structure=widths.lumina_model,
        block_positions=2,
        in_one=True,
        filling=_lumina_filling,
    ),
    *_of_newer_hosts(),
)


def family_of(model: Any) -> Family | None:
    """The family of a diffusion model (not a ComfyUI MODEL), `None` if it is of no supported kind."""
    return next((family for family in FAMILIES if type(model) is family.kind), None)
