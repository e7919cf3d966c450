"""AT-EDM benchmark: ToMe as the paper compares with it. A ComfyUI pack of one node, for benchmarks only."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .node import ATEDMBenchToMe


class BenchExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Its one node."""
        return [ATEDMBenchToMe]


async def comfy_entrypoint() -> BenchExtension:
    """For ComfyUI."""
    return BenchExtension()
