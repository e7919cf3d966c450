"""Diffusion transformers with random weights, built from ComfyUI's own classes: those that CAT Pruning can prune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from . import random_models

DTYPE = torch.float32


def sd3(seed: int = 0, dtype: torch.dtype = DTYPE, depth: int = 2) -> Any:
    """SD3-medium's structure: `depth` blocks of `depth` heads, 24 in life."""
    return random_models.sd3(depth, seed=seed, dtype=dtype)


def sd35_medium(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """SD3.5-medium's: normed queries and keys, and an attention of the image alone in the first blocks."""
    return random_models.sd3(3, seed=seed, dtype=dtype, qk_norm="rms", x_block_self_attn_layers=[0, 1])


def sd35_large(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """SD3.5-large's: normed queries and keys."""
    return random_models.sd3(3, seed=seed, dtype=dtype, qk_norm="rms")


def _pixart(config_class: str, seed: int, dtype: torch.dtype, **settings: Any) -> Any:
    import comfy.supported_models

    given = {"hidden_size": 48, "depth": 2, "num_heads": 2, "caption_channels": 32, "model_max_length": 24, **settings}
    config = getattr(comfy.supported_models, config_class)(given)
    return random_models.patcher(config, "PixArt", seed, dtype)


def pixart_alpha(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """PixArt-alpha's structure, told the picture's size."""
    return _pixart("PixArtAlpha", seed, dtype, micro_condition=True, pe_interpolation=2)


def pixart_sigma(seed: int = 0, dtype: torch.dtype = DTYPE, **settings: Any) -> Any:
    """PixArt-Sigma's structure."""
    return _pixart("PixArtSigma", seed, dtype, micro_condition=False, pe_interpolation=2, **settings)


def flux(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Flux.1's structure: double and single stream blocks, rotary positions."""
    return random_models.flux(depth=2, depth_single=2, seed=seed, dtype=dtype)


def flux2(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Flux.2's: modulations that all blocks share, gated layers, tokens of one latent pixel."""
    import comfy.supported_models

    settings = {
        **random_models.FLUX_BLOCKS,
        "image_model": "flux2",
        "patch_size": 1,
        "in_channels": 128,
        "out_channels": 128,
        "vec_in_dim": None,
        "context_in_dim": 64,
        "mlp_ratio": 3.0,
        "axes_dim": [32, 32, 32, 32],
        "theta": 2000,
        "qkv_bias": False,
        "ops_bias": False,
        "txt_ids_dims": [3],
        "global_modulation": True,
        "mlp_silu_act": True,
        "depth": 2,
        "depth_single_blocks": 2,
        "guidance_embed": True,
    }
    return random_models.patcher(comfy.supported_models.Flux2(settings), "Flux2", seed, dtype)


def longcat(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """LongCat-Image's: Flux.1 without guidance or a summary of the text, which has positions of its own."""
    import comfy.supported_models

    settings = {
        **random_models.FLUX_BLOCKS,
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": None,
        "context_in_dim": 3584,
        "txt_ids_dims": [1, 2],
        "depth": 2,
        "depth_single_blocks": 2,
        "guidance_embed": False,
    }
    return random_models.patcher(comfy.supported_models.LongCatImage(settings), "LongCatImage", seed, dtype)


def chroma(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Chroma's: Flux.1's blocks, modulated by one network."""
    import comfy.supported_models

    settings = {
        **random_models.FLUX_BLOCKS,
        "in_channels": 64,
        "out_channels": 64,
        "context_in_dim": 64,
        "depth": 2,
        "depth_single_blocks": 2,
        "in_dim": 64,
        "out_dim": 128,
        "hidden_dim": 64,
        "n_layers": 1,
        "vec_in_dim": 0,
    }
    return random_models.patcher(comfy.supported_models.Chroma(settings), "Chroma", seed, dtype)


def auraflow(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """AuraFlow's: learned positions, eight registers before the text."""
    import comfy.supported_models

    settings = {
        "cond_seq_dim": 64,
        "dim": 128,
        "global_conddim": 128,
        "n_layers": 4,
        "n_double_layers": 2,
        "n_heads": 2,
        "max_seq": 64 * 64,
    }
    return random_models.patcher(comfy.supported_models.AuraFlow(settings), "AuraFlow", seed, dtype)


def qwen_image(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Qwen-Image's: rotary positions, a latent with a dimension for frames."""
    import comfy.supported_models

    settings = {
        "in_channels": 64,
        "num_layers": 2,
        "attention_head_dim": 128,
        "num_attention_heads": 1,
        "joint_attention_dim": 64,
    }
    return random_models.patcher(comfy.supported_models.QwenImage(settings), "QwenImage", seed, dtype)


def _lumina(config_class: str, seed: int, dtype: torch.dtype, **settings: Any) -> Any:
    import comfy.supported_models

    given = {
        "image_model": "lumina2",
        "patch_size": 2,
        "in_channels": 16,
        "dim": 96,
        "cap_feat_dim": 64,
        "n_layers": 2,
        "qk_norm": True,
        "n_heads": 2,
        "n_kv_heads": 2,
        "axes_dims": [16, 16, 16],
        "axes_lens": [300, 512, 512],
        **settings,
    }
    return random_models.patcher(getattr(comfy.supported_models, config_class)(given), "Lumina2", seed, dtype)


def lumina2(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Lumina Image 2.0's: refiners of text and image before blocks of both in one, fewer heads of keys."""
    return _lumina("Lumina2", seed, dtype, n_kv_heads=1, rope_theta=10000.0, ffn_dim_multiplier=4.0)


def z_image(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Z-Image's: the same, with text and image each filled up to a multiple of 32 tokens."""
    # its modulations have 256 channels at any width
    sizes = {"dim": 256, "axes_dims": [32, 48, 48], "rope_theta": 256.0, "ffn_dim_multiplier": 8.0 / 3.0}
    other = {"z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32}
    return _lumina("ZImage", seed, dtype, **sizes, **other)


ANIMA_POSITIONS: dict[str, Any] = {
    "image_model": "anima",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
    "extra_per_block_abs_pos_emb": False,
    "rope_enable_fps_modulation": False,
}


def anima(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Anima's: tokens in rows and columns, self-attention and cross-attention to the text by turns."""
    import comfy.supported_models

    settings = {
        **ANIMA_POSITIONS,
        "model_channels": 128,
        "num_blocks": 2,
        "num_heads": 2,
        "crossattn_emb_channels": 64,
        "adaln_lora_dim": 32,
    }
    return random_models.patcher(comfy.supported_models.Anima(settings), "Anima", seed, dtype)


def krea2(seed: int = 0, dtype: torch.dtype = DTYPE) -> Any:
    """Krea 2's: the layers of a text encoder are joined before blocks of text and image in one."""
    import comfy.supported_models

    settings = {
        "image_model": "krea2",
        "features": 128,
        "tdim": 32,
        "txtdim": 32,
        "heads": 2,
        "kvheads": 1,
        "layers": 2,
        "txtlayers": 3,
        "txtheads": 2,
        "txtkvheads": 2,
    }
    return random_models.patcher(comfy.supported_models.Krea2(settings), "Krea2", seed, dtype)


def _sd3_checkpoint(seed: int) -> tuple[Any, Any, Any]:
    model = random_models.sd3(adm_in_channels=sum(random_models.CLIP_WIDTHS), seed=seed)
    return model, random_models.clip("sd3", seed), random_models.vae(16, seed)


def _pixart_checkpoint(seed: int) -> tuple[Any, Any, Any]:
    model = pixart_sigma(seed, caption_channels=random_models.T5_WIDTH)
    return model, random_models.clip("pixart", seed), random_models.vae(seed=seed)


CHECKPOINTS = {"sd3": _sd3_checkpoint, "pixart": _pixart_checkpoint}
"""(MODEL, CLIP, VAE) that fit together, by kind, for a seed."""


@dataclass(frozen=True)
class Transformer:
    """How to build one, and what it takes."""

    build: Any
    channels: int
    context: int
    pooled: int | None
    frames: bool = False


TRANSFORMERS = {
    "sd3": Transformer(sd3, 16, 4096, 2048),
    "sd35_medium": Transformer(sd35_medium, 16, 4096, 2048),
    "sd35_large": Transformer(sd35_large, 16, 4096, 2048),
    "pixart_alpha": Transformer(pixart_alpha, 4, 32, None),
    "pixart_sigma": Transformer(pixart_sigma, 4, 32, None),
    "flux": Transformer(flux, 16, 4096, 768),
    "flux2": Transformer(flux2, 128, 64, None),
    "longcat": Transformer(longcat, 16, 3584, None),
    "chroma": Transformer(chroma, 16, 64, None),
    "auraflow": Transformer(auraflow, 4, 64, None),
    "qwen_image": Transformer(qwen_image, 16, 64, None, frames=True),
    "lumina2": Transformer(lumina2, 16, 64, None),
    "z_image": Transformer(z_image, 16, 64, None),
    "anima": Transformer(anima, 16, 64, None, frames=True),
    "krea2": Transformer(krea2, 16, 96, None, frames=True),
}
