"""U-Nets in numbers, for tests that need no model."""

from __future__ import annotations

from atedm_core import AttentionBlock, UNetStructure
from atedm_core.unet.structure import stage_ends

SDXL_PLACES = [
    *[("input", i, 1, 2) for i in (4, 5)],
    *[("input", i, 2, 10) for i in (7, 8)],
    ("middle", 0, 2, 10),
    *[("output", i, 2, 10) for i in (0, 1, 2)],
    *[("output", i, 1, 2) for i in (3, 4, 5)],
]


def sdxl() -> UNetStructure:
    """SDXL: its attention blocks, and the multiply-adds of its convolutions and embeddings."""
    ends = stage_ends([(part, level) for part, _, level, _ in SDXL_PLACES])
    blocks = tuple(
        AttentionBlock(part, index, level, layers, 640 * level, 640 * level, 10 * level, 2048, end)
        for (part, index, level, layers), end in zip(SDXL_PLACES, ends, strict=True)
    )
    return UNetStructure(blocks, (17_328_640, 66_457_600, 249_446_400), 24_903_680)


def sd15() -> UNetStructure:
    """SD 1.5's attention blocks, one layer each; nothing else of it."""
    widths = (320, 640, 1280, 1280)
    places = [
        *[("input", i, i // 3) for i in (1, 2, 4, 5, 7, 8)],
        ("middle", 0, 3),
        *[("output", i, 3 - i // 3) for i in range(3, 12)],
    ]
    ends = stage_ends([(part, level) for part, _, level in places])
    blocks = tuple(
        AttentionBlock(part, index, level, 1, widths[level], widths[level], 8, 768, end)
        for (part, index, level), end in zip(places, ends, strict=True)
    )
    return UNetStructure(blocks, (0, 0, 0, 0))
