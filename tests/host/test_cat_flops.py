"""The transformers' cost formula against what torch counts on the host's own graphs, on the meta device.

Layers have their full width. The larger models have fewer blocks than in life: counting is slow, and blocks are alike.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.random_transformers import ANIMA_POSITIONS

_SD3: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "input_size": None,
    "patch_size": 2,
    "adm_in_channels": 2048,
    "pos_embed_max_size": 192,
    "num_patches": 192 * 192,
    "depth": 24,
    "num_blocks": 24,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
}
_LARGE = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 2432}}
_FLUX: dict[str, Any] = {
    "patch_size": 2,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 4,
    "depth_single_blocks": 6,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "txt_ids_dims": [],
}
_CHROMA = {"in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5}
_LUMINA: dict[str, Any] = {"patch_size": 2, "in_channels": 16, "n_layers": 6, "qk_norm": True}
FULL_WIDTH: dict[str, tuple[str, dict[str, Any]]] = {
    "SD3-medium": ("SD3", _SD3),
    "SD3.5-medium": ("SD3", {**_SD3, "qk_norm": "rms", "x_block_self_attn_layers": list(range(13))}),
    "SD3.5-large": (
        "SD3",
        {**_SD3, "qk_norm": "rms", "depth": 38, "num_blocks": 8, "context_embedder_config": _LARGE},
    ),
    "PixArt-Sigma": ("PixArt", {"micro_condition": False, "pe_interpolation": 2, "model_max_length": 300}),
    "Flux.1": ("Flux", {**_FLUX, "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "guidance_embed": True}),
    "Flux.2": (
        "Flux",
        {
            **_FLUX,
            "patch_size": 1,
            "in_channels": 128,
            "out_channels": 128,
            "vec_in_dim": None,
            "mlp_ratio": 3.0,
            "axes_dim": [32, 32, 32, 32],
            "txt_ids_dims": [3],
            "qkv_bias": False,
            "ops_bias": False,
            "global_modulation": True,
            "mlp_silu_act": True,
            "guidance_embed": True,
        },
    ),
    "LongCat-Image": (
        "Flux",
        {
            **_FLUX,
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": None,
            "context_in_dim": 3584,
            "txt_ids_dims": [1, 2],
            "guidance_embed": False,
        },
    ),
    "Chroma": ("Chroma", {**_FLUX, **_CHROMA, "vec_in_dim": 0}),
    "AuraFlow": ("AuraFlow", {"cond_seq_dim": 2048, "n_layers": 10}),
    "Qwen-Image": ("Qwen-Image", {"num_layers": 8}),
    "Lumina Image 2.0": (
        "Lumina/Z-Image",
        {
            **_LUMINA,
            "dim": 2304,
            "cap_feat_dim": 2304,
            "n_heads": 24,
            "n_kv_heads": 8,
            "axes_dims": [32, 32, 32],
            "ffn_dim_multiplier": 4.0,
        },
    ),
    "Z-Image": (
        "Lumina/Z-Image",
        {
            **_LUMINA,
            "dim": 3840,
            "cap_feat_dim": 2560,
            "n_heads": 30,
            "n_kv_heads": 30,
            "axes_dims": [32, 48, 48],
            "ffn_dim_multiplier": 8.0 / 3.0,
            "z_image_modulation": True,
            "pad_tokens_multiple": 32,
        },
    ),
    "Anima": (
        "Anima",
        {
            **ANIMA_POSITIONS,
            "model_channels": 2048,
            "num_blocks": 8,
            "num_heads": 16,
            "crossattn_emb_channels": 1024,
            "adaln_lora_dim": 256,
        },
    ),
    "Krea 2": ("Krea 2", {"layers": 6}),
}
# A grid that Z-Image has to fill up: 32 * 39 tokens are 1248, a multiple of 32, and 33 * 39 are not.
ROWS, COLUMNS = 33, 39
TEXT = 77


def family(host: InProcessHost, name: str) -> Any:
    return next(one for one in host.module("patches.dit.families").FAMILIES if one.name == name)


@functools.cache
def full_width(host: InProcessHost, model: str) -> Any:
    import comfy.ops

    name, settings = FULL_WIDTH[model]
    kind = family(host, name).kind
    return kind(device="meta", dtype=torch.float32, operations=comfy.ops.disable_weight_init, **settings).eval()


def inputs(model: str, latent: tuple[int, int]) -> dict[str, Any]:
    """What the host hands to a model of this kind, without data."""
    name, settings = FULL_WIDTH[model]

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta")

    channels = {"PixArt": 4, "AuraFlow": 4, "Flux": settings.get("in_channels")}.get(name, 16)
    frames = (1,) if name in ("Qwen-Image", "Anima") else ()
    told = settings.get("context_in_dim") or settings.get("cap_feat_dim")
    width = told or {"Qwen-Image": 3584, "AuraFlow": 2048, "Anima": 1024, "Krea 2": 12 * 2560}.get(name, 4096)
    steps = "timestep" if name in ("Flux", "Chroma", "AuraFlow") else "timesteps"
    given = {"x": empty(1, channels, *frames, *latent), steps: empty(1), "context": empty(1, TEXT, width)}
    if name == "SD3" or settings.get("vec_in_dim"):
        given["y"] = empty(1, settings.get("vec_in_dim", 2048))
    if name in ("Flux", "Chroma"):
        given["guidance"] = empty(1)
    if name == "Lumina/Z-Image":
        given["num_tokens"] = TEXT
    if name == "Qwen-Image":
        return {"x": given["x"], "timestep": given["timesteps"], "context": given["context"]}
    return given


@pytest.mark.parametrize("model", FULL_WIDTH)
def test_a_full_pass_and_a_pruned_one(host: InProcessHost, model: str) -> None:
    found = family(host, FULL_WIDTH[model][0])
    transformer = full_width(host, model)
    side = getattr(transformer, found.patch)
    latent = (ROWS * side, COLUMNS * side)
    tokens = ROWS * COLUMNS
    layout = found.layout(transformer, tokens)
    calls, memories = host.module("patches.dit.call"), host.module("patches.dit.kv_cache")
    memory = memories.CallMemory()

    def run(selected: torch.Tensor | None) -> int:
        call = calls.TransformerCall(memory, layout, selected, record_attention=True)
        options = calls.with_override({}, call) if found.attend is None else {}
        hooks = calls.attached(found, transformer, call)
        with torch.inference_mode(), hooks, FlopCounterMode(display=False) as counter:
            transformer(**inputs(model, latent), transformer_options=options)
        call.finish(found.attentions(transformer))
        assert call.refusal is None
        return int(counter.get_total_flops())

    formula = host.module("atedm_core.dit.flops").transformer_flops
    structure = found.structure(transformer)
    kept = int(0.3 * tokens)
    full, pruned = run(None), run(torch.arange(kept, device="meta").unsqueeze(0))
    assert full > 1e11
    assert formula(structure, tokens, TEXT) == pytest.approx(full, rel=0.005)
    assert formula(structure, tokens, TEXT, kept) == pytest.approx(pruned, rel=0.005)
