"""SDXL at 1024 px in numbers: what costs are counted on, and whose defaults are tried on the lab's models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from ...pack.atedm_core.unet.schedule import DSAPSchedule
from ...pack.atedm_core.unet.structure import AttentionBlock, UNetStructure, stage_ends

SDXL_LATENT = (128, 128)
_SDXL_PLACES = [
    *[("input", i, 1, 2) for i in (4, 5)],
    *[("input", i, 2, 10) for i in (7, 8)],
    ("middle", 0, 2, 10),
    *[("output", i, 2, 10) for i in (0, 1, 2)],
    *[("output", i, 1, 2) for i in (3, 4, 5)],
]


@cache
def sdxl() -> UNetStructure:
    """SDXL: its attention blocks, and the multiply-adds of its convolutions and embeddings."""
    ends = stage_ends([(part, level) for part, _, level, _ in _SDXL_PLACES])
    blocks = tuple(
        AttentionBlock(part, index, level, layers, 640 * level, 640 * level, 10 * level, 2048, end)
        for (part, index, level, layers), end in zip(_SDXL_PLACES, ends, strict=True)
    )
    return UNetStructure(blocks, (17_328_640, 66_457_600, 249_446_400), 24_903_680)


SDXL_SCHEDULE = replace(DSAPSchedule().for_model(sdxl()), only_where_it_pays=False)
"""The defaults as they are on SDXL, whatever model of the lab they are tried on."""
