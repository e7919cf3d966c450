"""AT-EDM for ComfyUI: image models run their attention blocks only on the tokens that matter."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES

WEB_DIRECTORY = "./web"


class ATEDMExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return NODES


async def comfy_entrypoint() -> ATEDMExtension:
    """Where ComfyUI starts."""
    return ATEDMExtension()
