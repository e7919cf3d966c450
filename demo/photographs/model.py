"""The lab's second model in ComfyUI's own classes; needs `comfy` importable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import model as demo
from ..pixels import PixelsConfig
from .store import FILE

CONFIG = demo.DemoConfig(
    unet=demo.UNetConfig(depth=(2, 10)),  # SDXL's
    pixels=PixelsConfig(encoder_width=96, decoder_width=128, fine_width=32),
)


def load(file: Path = FILE) -> Any:
    """(MODEL, CLIP, VAE) as `demo.model.load` gives them; raises `demo.store.DemoFileError`."""
    return demo.load(file)
