"""The demo model of AT-EDM: a small text-to-image model with SDXL's layout, its training,

And the ComfyUI node that loads it.

Linked into ComfyUI's `custom_nodes` this folder is a pack of one node; imported as `demo` it is an ordinary package.
"""

from __future__ import annotations

from typing import Any


async def comfy_entrypoint() -> Any:
    """Where ComfyUI starts. Imports inside: the drawing and the checking must work without ComfyUI."""
    from .loader import DemoExtension

    return DemoExtension()
