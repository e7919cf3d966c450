"""Models with random weights, built from ComfyUI's own classes: right in shape and wiring, at any size.

Tiny ones are quick on a CPU, for tests; full-size ones are what speed is measured on. Neither says anything about image
quality. ComfyUI has to be importable before anything here is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

Conditioning = list[list[Any]]

# What every U-Net configuration of ComfyUI says.
_UNET: dict[str, Any] = {
    "use_checkpoint": False,
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "in_channels": 4,
    "out_channels": 4,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "use_linear_in_transformer": True,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
_FOUR_LEVELS: dict[str, Any] = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}
NARROW_TEXT = 128  # of 768 to 2048 in the real ones, which would be half of what a step of a tiny U-Net costs
SHARP_ATTENTION = 1.5  # queries and keys this strong give attention maps with structure, not flat ones


def fill_with_noise(module: torch.nn.Module, seed: int, gain: float = 0.7) -> None:
    """Give every weight a value: ComfyUI's layers are created with whatever lay in memory."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [*module.named_parameters(), *module.named_buffers()]
    with torch.no_grad():
        for name, tensor in tensors:
            if not tensor.is_floating_point():
                continue
            if tensor.ndim >= 2:
                strength = SHARP_ATTENTION if name.endswith(("to_q.weight", "to_k.weight")) else gain
                width = tensor.shape[-1] if name.endswith("pos_embed") else tensor[0].numel()
                # Drawn on the CPU, whose generator this is: the same numbers wherever the model lies.
                drawn = torch.empty(tensor.shape, dtype=tensor.dtype) if tensor.device.type != "cpu" else tensor
                tensor.copy_(drawn.normal_(0.0, strength / width**0.5, generator=generator))
            else:
                tensor.fill_(0.0 if name.endswith("bias") else 1.0)


def patcher(config: Any, base_class: str, seed: int, dtype: torch.dtype, **arguments: Any) -> Any:
    """A MODEL as ComfyUI's loaders return it, around a model of `comfy.model_base`."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher

    config.set_inference_dtype(dtype, None)
    device = comfy.model_management.get_torch_device()
    model = getattr(comfy.model_base, base_class)(config, device=device, **arguments)
    fill_with_noise(model.diffusion_model, seed)
    model.eval()
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=offload)


def _unet(
    config_class: str, base_class: str, settings: dict[str, Any], seed: int, dtype: torch.dtype, **extra: Any
) -> Any:
    import comfy.supported_models

    config = getattr(comfy.supported_models, config_class)({**_UNET, **settings})
    return patcher(config, base_class, seed, dtype, **extra)


def _sdxl_like(
    config_class: str, depths: dict[str, Any], channels: int, context: int, adm: int, seed: int, dtype: Any
) -> Any:
    import comfy.model_base

    settings = {
        "num_classes": "sequential",
        "adm_in_channels": adm,
        "model_channels": channels,
        "context_dim": context,
        **depths,
    }
    return _unet(config_class, "SDXL", settings, seed, dtype, model_type=comfy.model_base.ModelType.EPS)


def sdxl(
    depth: tuple[int, int] = (2, 3),
    channels: int = 32,
    context: int = 2048,
    adm: int = 2816,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """SDXL: three levels, no attention at the first, `depth` transformer blocks in the attention of the others."""
    a, b = depth
    depths = {
        "transformer_depth": [0, 0, a, a, b, b],
        "transformer_depth_output": [0, 0, 0, a, a, a, b, b, b],
        "transformer_depth_middle": b,
    }
    return _sdxl_like("SDXL", depths, channels, context, adm, seed, dtype)


def ssd1b(context: int = 2048, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """SSD-1B: SDXL with no attention in the middle and uneven depths on the way up (4 for 10)."""
    depths = {
        "transformer_depth": [0, 0, 2, 2, 3, 3],
        "transformer_depth_output": [0, 0, 0, 1, 1, 2, 4, 3, 3],
        "transformer_depth_middle": -1,
    }
    return _sdxl_like("SSD1B", depths, 32, context, 2816, seed, dtype)


def vega(context: int = 2048, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Segmind Vega: depths as in the real one, no attention in the middle."""
    depths = {
        "transformer_depth": [0, 0, 1, 1, 2, 2],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "transformer_depth_middle": -1,
    }
    return _sdxl_like("Segmind_Vega", depths, 32, context, 2816, seed, dtype)


def refiner(depth: int = 2, context: int = 1280, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """The SDXL refiner: four levels, attention at the two in the middle."""
    d = depth
    settings = {
        **_FOUR_LEVELS,
        "num_classes": "sequential",
        "adm_in_channels": 2560,
        "model_channels": 32,
        "context_dim": context,
        "transformer_depth": [0, 0, d, d, d, d, 0, 0],
        "transformer_depth_output": [0, 0, 0, d, d, d, d, d, d, 0, 0, 0],
        "transformer_depth_middle": d,
    }
    return _unet("SDXLRefiner", "SDXLRefiner", settings, seed, dtype)


def sd15(channels: int = 32, context: int = 768, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """SD 1.5: four levels, one transformer block wherever there is attention, eight heads."""
    import comfy.model_base

    settings = {
        **_FOUR_LEVELS,
        "num_classes": None,
        "adm_in_channels": None,
        "model_channels": channels,
        "context_dim": context,
        "use_linear_in_transformer": False,
    }
    return _unet("SD15", "BaseModel", settings, seed, dtype, model_type=comfy.model_base.ModelType.EPS)


def sd2(v_prediction: bool = True, context: int = 1024, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """SD 2.x: as SD 1.5 with heads of 64 channels and, usually, velocity prediction."""
    import comfy.model_base

    settings = {
        **_FOUR_LEVELS,
        "num_classes": None,
        "adm_in_channels": None,
        "model_channels": 64,
        "context_dim": context,
    }
    kind = comfy.model_base.ModelType.V_PREDICTION if v_prediction else comfy.model_base.ModelType.EPS
    return _unet("SD20", "BaseModel", settings, seed, dtype, model_type=kind)


def svd(seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Stable Video Diffusion: attention over time in every block. The batch is the frames."""
    settings = {
        **_FOUR_LEVELS,
        "in_channels": 8,
        "num_classes": "sequential",
        "adm_in_channels": 768,
        "model_channels": 64,
        "context_dim": 1024,
        "use_temporal_attention": True,
        "use_temporal_resblock": True,
        "extra_ff_mix_layer": True,
        "use_spatial_context": True,
        "merge_strategy": "learned_with_images",
        "merge_factor": 0.0,
        "video_kernel_size": [3, 1, 1],
    }
    return _unet("SVD_img2vid", "SVD_img2vid", settings, seed, dtype)


def sd3(depth: int = 2, context: int = 4096, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """SD3: `depth` joint transformer blocks with `depth` heads of 64, patches of 2, flow sampling."""
    import comfy.supported_models

    side = 64
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": context, "out_features": 64 * depth}}
    settings = {
        "in_channels": 16,
        "out_channels": 16,
        "input_size": None,
        "patch_size": 2,
        "depth": depth,
        "num_blocks": depth,
        "adm_in_channels": 2048,
        "pos_embed_scaling_factor": None,
        "pos_embed_max_size": side,
        "num_patches": side * side,
        "qk_norm": None,
        "context_embedder_config": embedder,
        **settings,
    }
    return patcher(comfy.supported_models.SD3(settings), "SD3", seed, dtype)


FLUX_BLOCKS: dict[str, Any] = {
    "patch_size": 2,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "txt_ids_dims": [],
}


def flux(depth: int = 1, depth_single: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Flux.1: double and single stream blocks of one head of 128 channels."""
    import comfy.supported_models

    settings = {
        **FLUX_BLOCKS,
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": 768,
        "context_in_dim": 4096,
        "depth": depth,
        "depth_single_blocks": depth_single,
        "guidance_embed": True,
    }
    return patcher(comfy.supported_models.Flux(settings), "Flux", seed, dtype)


def vae(latent_channels: int = 4, seed: int = 0) -> Any:
    """A VAE: a random TAESD, which ComfyUI recognises by its weights. Its own VAE nodes work on it."""
    import comfy.sd
    import comfy.taesd.taesd

    coder = comfy.taesd.taesd.TAESD(latent_channels=latent_channels)
    fill_with_noise(coder, seed)
    with torch.no_grad():
        coder.vae_scale.fill_(1.0)
        coder.vae_shift.fill_(0.0)
    wrapped = comfy.sd.VAE(sd=coder.state_dict())
    wrapped.throw_exception_if_invalid()
    return wrapped


def controlnet(model: Any, seed: int = 6) -> Any:
    """A real ControlNet of the host with random weights, in the shape of a U-Net model."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    config = dict(model.model.model_config.unet_config)
    for name in ("out_channels", "transformer_depth_output"):
        config.pop(name)
    config.setdefault("num_heads", -1)
    network = comfy.cldm.cldm.ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, **config)
    fill_with_noise(network, seed)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


CLIP_WIDTHS = (64, 128)  # of the two tiny text encoders
T5_WIDTH = 32


def clip(kind: str = "sdxl", seed: int = 0) -> Any:
    """A CLIP: the real tokenizers with tiny random text encoders.

    `sdxl` and `sd3` have both, `sd15` the first; `pixart` has a T5, whose length follows the prompt's.
    """
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.supported_models_base
    import comfy.text_encoders.pixart_t5
    import comfy.text_encoders.sd3_clip

    def encoder(width: int) -> dict[str, int]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": width // 32,
            "num_hidden_layers": 3,
            "projection_dim": width,
        }

    classes = {
        "sdxl": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
        "sd15": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        "sd3": (comfy.text_encoders.sd3_clip.SD3Tokenizer, comfy.text_encoders.sd3_clip.sd3_clip(t5=False)),
        "pixart": (comfy.text_encoders.pixart_t5.PixArtTokenizer, comfy.text_encoders.pixart_t5.pixart_te()),
    }
    options = {
        "clip_l_model_config": encoder(CLIP_WIDTHS[0]),
        "clip_g_model_config": encoder(CLIP_WIDTHS[1]),
        "t5xxl_model_config": {"d_model": T5_WIDTH, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2},
    }
    wrapped = comfy.sd.CLIP(comfy.supported_models_base.ClipTarget(*classes[kind]), model_options=options)
    fill_with_noise(wrapped.cond_stage_model, seed)
    return wrapped


def _sdxl_checkpoint(seed: int) -> tuple[Any, Any, Any]:
    size_embedding = 6 * 256
    model = sdxl(context=sum(CLIP_WIDTHS), adm=CLIP_WIDTHS[1] + size_embedding, seed=seed)
    return model, clip("sdxl", seed), vae(seed=seed)


def _sd15_checkpoint(seed: int) -> tuple[Any, Any, Any]:
    return sd15(context=CLIP_WIDTHS[0], seed=seed), clip("sd15", seed), vae(seed=seed)


CHECKPOINTS: dict[str, Callable[[int], tuple[Any, Any, Any]]] = {"sdxl": _sdxl_checkpoint, "sd15": _sd15_checkpoint}
"""(MODEL, CLIP, VAE) that fit together, as CheckpointLoaderSimple returns them, by kind, for a seed."""


@dataclass(frozen=True)
class Kind:
    """How to build one kind of model and what conditioning it takes: channels of the text and of its summary."""

    build: Callable[..., Any]
    context: int
    pooled: int | None = None
    tokens: int = 77


def _narrow(build: Callable[..., Any], pooled: int | None = None) -> Kind:
    return Kind(partial(build, context=NARROW_TEXT), NARROW_TEXT, pooled)


KINDS: dict[str, Kind] = {
    "sdxl": _narrow(sdxl, 1280),
    "deep sdxl": _narrow(partial(sdxl, depth=(1, 4)), 1280),
    "ssd1b": _narrow(ssd1b, 1280),
    "vega": _narrow(vega, 1280),
    "refiner": _narrow(refiner, 1280),
    "sd15": _narrow(sd15),
    "sd2": _narrow(sd2),
    "svd": Kind(svd, 1024, tokens=1),
    "sd3": Kind(sd3, 4096, 2048),
    "flux": Kind(flux, 4096, 768),
}
UNETS = ("sdxl", "ssd1b", "vega", "refiner", "sd15", "sd2")
