"""The demo model's loader as a ComfyUI pack of one node."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .node import ATEDMDemoLoader


class DemoExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Its one node."""
        return [ATEDMDemoLoader]
