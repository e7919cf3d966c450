"""AT-EDM for ComfyUI: image models run their attention blocks only on the tokens that matter."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES

WEB_DIRECTORY = "./web"


class ATEDMExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> ATEDMExtension:
    return ATEDMExtension()
