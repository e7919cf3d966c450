"""The example workflows on the demo model: what a person would choose, and numbers for a picture of 256 x 256."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .workflow import LOADER

SIDE = 256
CFG = 4.0

Prompt = dict[str, dict[str, Any]]


def on_demo_model(
    prompt: Mapping[str, Mapping[str, Any]], texts: tuple[str, str] = ("", ""), steps: int | None = None
) -> Prompt:
    """An API-format workflow with the demo model in place of its checkpoint.

    Args:
        prompt: made for a big model.
        texts: prompt and negative prompt; empty ones stay as they are.
        steps: of every sampler; its own by default.
    """
    changed = {
        number: {"class_type": node["class_type"], "inputs": dict(node["inputs"])} for number, node in prompt.items()
    }
    written = 0
    for node in changed.values():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "CheckpointLoaderSimple":
            node["class_type"], node["inputs"] = LOADER, {}
        elif kind == "EmptyLatentImage":
            inputs["width"] = inputs["height"] = SIDE
        elif kind == "ImageScaleToTotalPixels":
            inputs["megapixels"] = (SIDE / 1024) ** 2
        elif kind == "CLIPTextEncode":
            inputs["text"] = (texts[written] or inputs["text"]) if written < len(texts) else inputs["text"]
            written += 1
        elif kind == "KSampler":
            inputs["steps"] = steps or inputs["steps"]
            inputs["cfg"] = min(CFG, inputs["cfg"])
    return changed
