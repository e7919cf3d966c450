"""AT-EDM for ComfyUI: image models run their attention blocks only on the tokens that matter."""

from __future__ import annotations

import logging

from .patches.host.version import why_nodes_cannot_load

WEB_DIRECTORY = "./web"

_why_not = why_nodes_cannot_load()
if _why_not is not None:
    logging.getLogger(__name__).error("%s", _why_not)
else:
    from .nodes import ATEDMExtension

    async def comfy_entrypoint() -> ATEDMExtension:
        """Where ComfyUI starts."""
        return ATEDMExtension()
