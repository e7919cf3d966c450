"""The demo model in ComfyUI's own classes: SDXL with small numbers. Shared by the training and the loader;

Needs `comfy` importable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from .pixels import Pixels, PixelsConfig
from .store import DemoFileError, read
from .text import TextConfig, fill_tables

SIZE_EMBEDDING = 6 * 256  # SDXL's six numbers about the picture's size, 256 channels each


@dataclass(frozen=True)
class UNetConfig:
    """SDXL's layout: three levels, none with attention at the top, blocks with the same numbers as SDXL's."""

    model_channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2, 2)
    depth: tuple[int, int] = (2, 2)  # transformer blocks per attention layer at the middle and at the lowest level
    head_channels: int = 32
    norm_groups: int = (
        8  # of 32 channels each group holds 4; with the host's 32 groups a flat colour would be normalised away
    )

    def host(self, context: int, pooled: int) -> dict[str, Any]:
        """The unet_config that the host makes from an SDXL file, with our numbers."""
        middle, low = self.depth
        return {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "use_checkpoint": False,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": True,
            "legacy": False,
            "use_temporal_attention": False,
            "use_temporal_resblock": False,
            "num_classes": "sequential",
            "adm_in_channels": pooled + SIZE_EMBEDDING,
            "context_dim": context,
            "model_channels": self.model_channels,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": list(self.channel_mult),
            "transformer_depth": [0, 0, middle, middle, low, low],
            "transformer_depth_output": [0, 0, 0, middle, middle, middle, low, low, low],
            "transformer_depth_middle": low,
        }


@dataclass(frozen=True)
class DemoConfig:
    """Everything needed to build the model for a file of weights."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextConfig = field(default_factory=TextConfig)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> DemoConfig:
        """The inverse of `to_dict`; raises TypeError or KeyError where a name does not fit."""
        unet = {k: tuple(v) if isinstance(v, list) else v for k, v in values["unet"].items()}
        return DemoConfig(UNetConfig(**unet), TextConfig(**values["text"]), PixelsConfig(**values["pixels"]))


def grouped(operations: type, groups: int) -> type:
    """The host's layer classes with another number of groups in GroupNorm (the host asks for 32 everywhere)."""

    class GroupNorm(operations.GroupNorm):
        def __init__(self, num_groups: int, num_channels: int, *args: Any, **kwargs: Any) -> None:
            super().__init__(groups, num_channels, *args, **kwargs)

    return type("GroupedOperations", (operations,), {"GroupNorm": GroupNorm})


def build_sdxl(
    config: DemoConfig,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    computed: torch.dtype | None = None,
) -> comfy.model_base.SDXL:
    """An SDXL model of the host with our sizes and weights still to be filled in;

    V-prediction with zero terminal SNR. `dtype` is that of the weights; `computed` in another, if the host's choice for
    the device is not to be asked.

    Zero terminal SNR because these pictures are one flat colour for the most part: with SDXL's own schedule the last
    bit of signal in the noisiest step says how bright the picture is, and sampling from pure noise would then start
    from a wrong answer.
    """
    unet = config.unet.host(2 * config.text.width, config.text.width)
    model_config = comfy.supported_models.SDXL(unet)
    model_config.unet_config["num_head_channels"] = config.unet.head_channels
    manual = computed or comfy.model_management.unet_manual_cast(dtype, device or torch.device("cpu"))
    manual = None if manual == dtype else manual
    model_config.set_inference_dtype(dtype, manual)
    model_config.custom_operations = grouped(comfy.ops.pick_operations(dtype, manual), config.unet.norm_groups)
    kind = model_config.model_type({"v_pred": None, "ztsnr": None})
    return comfy.model_base.SDXL(model_config, model_type=kind, device=device)


def build_clip(config: DemoConfig, state: Mapping[str, Tensor] | None = None) -> comfy.sd.CLIP:
    """The host's CLIP for SDXL with its own tokenizer and our two tiny encoders;

    Without `state` weights are still to be filled in.
    """
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    sizes = config.text.host()
    return comfy.sd.CLIP(
        target,
        model_options={"clip_l_model_config": dict(sizes), "clip_g_model_config": dict(sizes)},
        state_dict=dict(state or {}),
    )


def load_model(
    config: DemoConfig, state: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> comfy.model_patcher.ModelPatcher:
    """MODEL: the U-Net `state` in an SDXL of the host, computed in `dtype`; without it, as the host sees fit."""
    load_device = comfy.model_management.get_torch_device()
    parameters = sum(v.numel() for v in state.values())
    stored = dtype or comfy.model_management.unet_dtype(device=load_device, model_params=parameters)
    model = build_sdxl(config, comfy.model_management.unet_offload_device(), stored, computed=dtype)
    model.diffusion_model.load_state_dict(state)
    return comfy.model_patcher.CoreModelPatcher(
        model, load_device=load_device, offload_device=comfy.model_management.unet_offload_device()
    )


def load_clip(config: DemoConfig, state: Mapping[str, Tensor], stored: Tensor) -> comfy.sd.CLIP:
    """CLIP: the text `state` with the embedding tables filled up to CLIP's full vocabulary."""
    return build_clip(config, fill_tables(state, stored))


def load_vae(config: DemoConfig, state: Mapping[str, Tensor]) -> comfy.sd.VAE:
    """VAE: our autoencoder inside the host's class.

    The host's class picks a network by the names of the weights and knows none of ours. It is therefore made with its
    smallest own network, whose place ours then takes.
    """
    params = {"embed_dim": 4, "ddconfig": PLACEHOLDER}
    vae = comfy.sd.VAE(sd=comfy.ldm.models.autoencoder.AutoencoderKL(**params).state_dict(), config={"params": params})
    vae.first_stage_model = Pixels(config.pixels).eval().requires_grad_(False)
    vae.first_stage_model.load_state_dict(state)
    vae.first_stage_model.to(vae.vae_dtype)
    comfy.model_management.archive_model_dtypes(vae.first_stage_model)
    vae.patcher = comfy.model_patcher.CoreModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    vae.size = comfy.model_management.module_size(vae.first_stage_model)
    # values held per pixel where it is widest, the refinement at half the picture's size, with some room
    vae.memory_used_decode = lambda shape, kind: 64 * shape[2] * shape[3] * 40 * comfy.model_management.dtype_size(kind)
    vae.memory_used_encode = lambda shape, kind: shape[2] * shape[3] * 40 * comfy.model_management.dtype_size(kind)
    return vae


def load(
    file: Path, dtype: torch.dtype | None = None
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """(MODEL, CLIP, VAE) from a file, the model in `dtype`; raises DemoFileError where it cannot be used."""
    content = read(file)
    try:
        config = DemoConfig.from_dict(content.config)
        stored = torch.tensor(content.tokens)
        return (
            load_model(config, content.unet, dtype),
            load_clip(config, content.text, stored),
            load_vae(config, content.pixels),
        )
    except (
        AttributeError,
        KeyError,
        OverflowError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as fault:  # names or shapes that do not fit the configuration
        raise DemoFileError(file, f"its weights do not fit its configuration ({fault})") from fault


PLACEHOLDER = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1],
}
PLACEHOLDER |= {"num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}


def reset(module: nn.Module, seed: int = 0) -> None:
    """Start values for training. The host's layers leave their memory as they found it, so everything must be filled.

    Layers that end a residual branch start at zero, as in the original U-Net.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith(("logit_scale",)):
                continue
            if "embedding" in name:
                weight.normal_(0, 0.1, generator=generator)
            elif weight.ndim < 2:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith(("out_layers.3.weight", "proj_out.weight")) or name == "out.2.weight":
                weight.zero_()
            else:
                fan_in = weight[0].numel()
                weight.uniform_(-1, 1, generator=generator).mul_((1.5 / fan_in) ** 0.5)
