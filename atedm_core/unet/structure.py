"""What a U-Net looks like to token pruning: its attention blocks, and what the rest of it costs.

A description in numbers, with no model in it, so that schedules and costs work without the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Part = Literal["input", "middle", "output"]

LEVEL_NAMES = ("full", "half", "quarter", "eighth")
"""Resolution levels by name: tokens at the latent's own resolution, at half of it, and so on."""


@dataclass(frozen=True)
class AttentionBlock:
    """One attention block (ComfyUI: `SpatialTransformer`) of a U-Net.

    Attributes:
        part: the side of the U-Net it sits on.
        index: its number on that side, as ComfyUI counts.
        level: how often the latent has been halved where it sits; 0 is the latent's own resolution.
        layers: attention layers in it (self-attention, cross-attention, feed-forward each).
        channels: of the feature map it reads and writes.
        width: of the hidden states inside it (heads * head size).
        heads: attention heads.
        context_width: channels of a text token.
        ends_stage: it is the first attention block of a down stage or the last of an up stage (DSAP's spared blocks).
    """

    part: Part
    index: int
    level: int
    layers: int
    channels: int
    width: int
    heads: int
    context_width: int
    ends_stage: bool = False

    @property
    def name(self) -> str:
        """Part and number, as in `input 4`."""
        return f"{self.part} {self.index}"


@dataclass(frozen=True)
class UNetStructure:
    """A U-Net as costs and schedules see it.

    Attributes:
        blocks: its attention blocks, in the order they run.
        other_macs: multiply-adds per position outside attention blocks, one number per level.
        fixed_macs: multiply-adds per sample that do not depend on the picture's size (embeddings).
    """

    blocks: tuple[AttentionBlock, ...]
    other_macs: tuple[int, ...]
    fixed_macs: int = 0

    def grid(self, level: int, latent: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in tokens at `level` for a latent of (height, width); halving rounds up."""
        height, width = latent
        for _ in range(level):
            height, width = -(-height // 2), -(-width // 2)
        return height, width


def stage_ends(places: list[tuple[Part, int]]) -> list[bool]:
    """For attention blocks given as (part, level) in running order: which of them DSAP spares early.

    The first of each run of equal (part, level) on the input side, the last on the output side, none in the middle.

    >>> stage_ends([("input", 1), ("input", 1), ("middle", 2), ("output", 1), ("output", 1)])
    [True, False, False, False, True]
    """
    ends: list[bool] = []
    for (part, _), run in groupby(places):
        count = len(list(run))
        spared = {"input": 0, "output": count - 1, "middle": None}[part]
        ends.extend(position == spared for position in range(count))
    return ends
