"""Patches of other packs, as small as they can be and still act; and ComfyUI's own nodes that patch a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from in_process import InProcessHost
from watching import transformers

Foreign = Callable[[InProcessHost, Any], Any]


def grid_tokens(options: dict[str, Any]) -> int:
    return math.prod(options["activations_shape"][-2:])


def ip_adapter(host: InProcessHost, model: Any) -> Any:
    """Cross-attention replaced, with a mask laid over the picture; its grid is read off the number of queries."""
    from comfy.ldm.modules.attention import optimized_attention

    def attend(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
        height, width = options["original_shape"][-2:]
        while height * width > q.shape[1]:
            height, width = -(-height // 2), -(-width // 2)
        if height * width != q.shape[1]:
            raise ValueError(f"{q.shape[1]} tokens are no grid of {options['original_shape']}")
        mask = torch.linspace(0.0, 1.0, width).expand(height, width).reshape(1, -1, 1)
        out = optimized_attention(q, k, v, options["n_heads"], transformer_options=options)
        extra = optimized_attention(q, k.flip(1), v, options["n_heads"], transformer_options=options)
        return out + 0.5 * mask * extra

    clone = model.clone()
    for place in transformers(model):
        clone.set_model_attn2_replace(attend, *place)
    return clone


def perturbed(host: InProcessHost, model: Any) -> Any:
    """Self-attention replaced by its values, in one layer by its full name and in one block by the short one."""

    def values(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
        assert q.shape[1] == k.shape[1] == v.shape[1] == grid_tokens(options)
        return v

    first, *_, last = transformers(model)
    clone = model.clone()
    clone.set_model_attn1_replace(values, *first, len(transformers(model)[first].transformer_blocks) - 1)
    clone.set_model_attn1_replace(values, *last)
    return clone


def attention_couple(host: InProcessHost, model: Any) -> Any:
    """One copy of the queries per region, folded back by masks; shapes travel through the shared options."""

    def spread(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
        options["couple_batch"] = q.shape[0]
        return q.repeat(2, 1, 1), torch.cat([k, k.flip(1)]), torch.cat([v, v.flip(2)])

    def fold(out: Any, options: dict[str, Any]) -> Any:
        height, width = options["activations_shape"][-2:]
        left = (torch.arange(width) < width // 2).float().expand(height, width).reshape(1, -1, 1)
        one, other = out.view(2, options.pop("couple_batch"), height * width, -1)
        return one * left + other * (1 - left)

    clone = model.clone()
    clone.set_model_attn2_patch(spread)
    clone.set_model_attn2_output_patch(fold)
    return clone


def gligen(host: InProcessHost, model: Any) -> Any:
    """Between the attentions, something added by place in the picture, chosen by the number of the block."""

    def ground(x: Any, options: dict[str, Any]) -> Any:
        height, width = options["activations_shape"][-2:]
        ramp = torch.linspace(-1, 1, height).view(1, height, 1, 1).expand(1, height, width, 1)
        added = torch.cat([x, x[:, :1]], dim=1).mean(1, keepdim=True)
        return x + (0.1 * ramp).reshape(1, height * width, 1) * added * (1 + options["transformer_index"])

    clone = model.clone()
    clone.set_model_patch(ground, "middle_patch")
    return clone


def self_attention_scaled(host: InProcessHost, model: Any) -> Any:
    """Self-attention, patched on both sides."""
    clone = model.clone()
    clone.set_model_attn1_patch(lambda q, k, v, options: (q * 1.1, k, v))
    clone.set_model_attn1_output_patch(lambda out, options: out.view(out.shape[0], grid_tokens(options), -1) * 0.9)
    return clone


def lora(host: InProcessHost, model: Any) -> Any:
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, lora_file(model), 0.8, 0.0)[0]


def lora_file(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    file = {}
    for name, weight in model.model.state_dict().items():
        if name.endswith(("attn1.to_q.weight", "attn2.to_k.weight", "ff.net.2.weight")):
            out_width, in_width = weight.shape
            file[name.replace(".weight", ".lora_up.weight")] = torch.randn(out_width, 2, generator=generator) * 0.2
            file[name.replace(".weight", ".lora_down.weight")] = torch.randn(2, in_width, generator=generator) * 0.2
    assert file
    return file


def node(node_id: str, **inputs: Any) -> Foreign:
    def build(host: InProcessHost, model: Any) -> Any:
        return host.call(node_id, model=model, **inputs)[0]

    return build


SHRINK = {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.9}
METHODS = {"downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic"}
CACHE = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
FOREIGN: dict[str, Foreign] = {
    "IP-Adapter with a mask": ip_adapter,
    "perturbed self-attention": perturbed,
    "attention couple": attention_couple,
    "GLIGEN": gligen,
    "self-attention patches": self_attention_scaled,
    "LoRA": lora,
    "ToMe": node("TomePatchModel", ratio=0.5),
    "HyperTile": node("HyperTile", tile_size=32, swap_size=2, max_depth=2, scale_depth=False),
    "PerturbedAttentionGuidance": node("PerturbedAttentionGuidance", scale=3.0),
    "SelfAttentionGuidance": node("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    "FreeU": node("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    "Deep Shrink": node("PatchModelAddDownscale", **SHRINK, **METHODS),
    "EasyCache": node("EasyCache", **CACHE),
    "LazyCache": node("LazyCache", **CACHE),
}
