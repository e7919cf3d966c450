"""The demo's diffusion transformer in ComfyUI's own classes: SD3 with small numbers, for what U-Nets cannot show.

It works on the latents of the demo's autoencoder and with the demo's text encoders, both of which stay as they are.
Needs `comfy` importable. Not a file that ComfyUI's loaders know: SD3 has 16 latent channels, these have 4.
"""

from __future__ import annotations

from pathlib import Path

import comfy.latent_formats
import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from torch import nn

from .transformer_store import DEFAULT_FILE, TransformerConfig, read

TEXT_TOKENS = 16
"""Text tokens it is given, of CLIP's 77: no caption has more, and the encoders cannot look ahead."""


def build_sd3(
    config: TransformerConfig, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> comfy.model_base.SD3:
    """An SD3 model of the host with our sizes and weights still to be filled in; rectified flow, shift 3."""
    model_config = comfy.supported_models.SD3(config.host())
    model_config.latent_format = comfy.latent_formats.SDXL()
    manual = comfy.model_management.unet_manual_cast(dtype, device or torch.device("cpu"))
    model_config.set_inference_dtype(dtype, manual)
    return comfy.model_base.SD3(model_config, device=device)


def reset(model: nn.Module, seed: int = 0) -> None:
    """Start values for training: every block begins by passing on what it is given."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
            elif "adaLN" in name or name == "final_layer.linear.weight":
                weight.zero_()
            else:
                weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
        width, side = model.pos_embed.shape[-1], model.pos_embed_max_size
        model.pos_embed.copy_(torch.from_numpy(mmdit.get_2d_sincos_pos_embed(width, side))[None])


def load(file: Path = DEFAULT_FILE) -> comfy.model_patcher.ModelPatcher:
    """MODEL: the transformer of a file; its CLIP and VAE are the demo model's.

    Raises:
        ValueError: see `read`.
    """
    config, state, _ = read(file)
    load_device = comfy.model_management.get_torch_device()
    offload = comfy.model_management.unet_offload_device()
    parameters = sum(weight.numel() for weight in state.values())
    model = build_sd3(config, offload, comfy.model_management.unet_dtype(device=load_device, model_params=parameters))
    model.diffusion_model.load_state_dict(state)
    return comfy.model_patcher.CoreModelPatcher(model.eval(), load_device=load_device, offload_device=offload)
