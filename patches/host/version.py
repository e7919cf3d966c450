"""Which ComfyUI this is, and what an older one lacks. Can be imported where nothing else of the pack can."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

OLDEST = "0.20.1"
"""The oldest ComfyUI on which everything works."""


def host_version() -> str:
    """The host's version as it gives it; "of unknown version" where it gives none."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return "of unknown version"
    return str(__version__)


def why_nodes_cannot_load() -> str | None:
    """What to say of a host without the node interface that the pack is written for, `None` where it is there."""
    try:
        from comfy_api.latest import io

        known = inspect.signature(io.Int.Input.__init__).parameters
    except (ImportError, AttributeError):
        return _too_old("AT-EDM cannot be loaded")
    return None if "advanced" in known else _too_old("AT-EDM cannot be loaded")


@functools.cache
def why_blocks_cannot_be_pruned() -> str | None:
    """What to say of a host that keeps U-Nets' attention blocks to itself, `None` where it gives them away.

    Older ones ask `forward_timestep_embed_patch` only for layers that they do not know. An old one that was mended is
    recognised by what it does.
    """
    if _numbers(host_version()) >= _numbers(OLDEST) or _gives_blocks_away():
        return None
    return _too_old("AT-EDM cannot prune a U-Net")


def _too_old(what: str) -> str:
    return f"ComfyUI {host_version()} is too old, so {what}. It needs ComfyUI {OLDEST} or newer: update ComfyUI."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _gives_blocks_away() -> bool:
    """Show the host an attention block that cannot run, and see whether it asks what to do with it."""
    from comfy.ldm.modules.attention import SpatialTransformer
    from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed

    block = SpatialTransformer.__new__(SpatialTransformer)
    asked: list[Any] = []

    def handler(layer: Any, x: Any, *_: Any) -> Any:
        asked.append(layer)
        return x

    options = {"patches": {"forward_timestep_embed_patch": [(SpatialTransformer, handler)]}}
    try:
        forward_timestep_embed([block], None, None, None, options)
    except Exception:  # an older host runs the block itself, which has no weights
        return False
    return bool(asked)
