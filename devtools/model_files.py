"""Where the files are that the example workflows name, so that the user interface can offer to fetch them."""

from __future__ import annotations

_HUB = "https://huggingface.co"

# by the name under which a loader finds it: the address, and the folder below ComfyUI's `models`
MODEL_FILES: dict[str, tuple[str, str]] = {
    "sd_xl_base_1.0.safetensors": (
        f"{_HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
        "checkpoints",
    ),
    "v1-5-pruned-emaonly-fp16.safetensors": (
        f"{_HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
        "checkpoints",
    ),
    "sdxl_lightning_8step_lora.safetensors": (
        f"{_HUB}/ByteDance/SDXL-Lightning/resolve/main/sdxl_lightning_8step_lora.safetensors",
        "loras",
    ),
    "sd3_medium_incl_clips_t5xxlfp8.safetensors": (
        f"{_HUB}/stabilityai/stable-diffusion-3-medium/resolve/main/sd3_medium_incl_clips_t5xxlfp8.safetensors",
        "checkpoints",
    ),
    "PixArt-Sigma-XL-2-1024-MS.safetensors": (
        f"{_HUB}/PixArt-alpha/PixArt-Sigma-XL-2-1024-MS/resolve/main/transformer/diffusion_pytorch_model.safetensors",
        "diffusion_models",
    ),
    "t5xxl_fp8_e4m3fn.safetensors": (
        f"{_HUB}/comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp8_e4m3fn.safetensors",
        "text_encoders",
    ),
    "sdxl_vae.safetensors": (f"{_HUB}/stabilityai/sdxl-vae/resolve/main/sdxl_vae.safetensors", "vae"),
}


def models_of(values: list[object]) -> list[dict[str, str]]:
    """What a node of these widget values needs, as its `properties.models`."""
    named = [value for value in values if isinstance(value, str) and value in MODEL_FILES]
    return [{"name": name, "url": MODEL_FILES[name][0], "directory": MODEL_FILES[name][1]} for name in named]
