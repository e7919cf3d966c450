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

    It is number `index`, as ComfyUI counts, on the side `part`, where the latent has been halved `level` times, and has
    so many `layers` of self-attention, cross-attention and feed-forward. The feature map it reads and writes has so
    many `channels`, the hidden states inside it `width` (heads * head size), a text token `context_width`. Where it
    `ends_stage`, DSAP spares it.
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
    """A U-Net as costs and schedules see it: its attention blocks, in the order they run, and what is outside of them.

    `other_macs` are multiply-adds per position, one number per level, `fixed_macs` those per sample that do not depend
    on the picture's size (embeddings).
    """

    blocks: tuple[AttentionBlock, ...]
    other_macs: tuple[int, ...]
    fixed_macs: int = 0

    def grid(self, level: int, latent: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in tokens at `level` for a latent of (height, width); halving rounds up."""
        return -(-latent[0] // 2**level), -(-latent[1] // 2**level)


def stage_ends(places: list[tuple[Part, int]]) -> list[bool]:
    """For attention blocks given as (part, level) in running order: which of them DSAP spares early.

    The first of each run of equal (part, level) on the input side, the last on the output side, none in the middle.
    """
    ends: list[bool] = []
    for (part, _), run in groupby(places):
        count = len(list(run))
        spared = {"input": 0, "output": count - 1, "middle": None}[part]
        ends.extend(position == spared for position in range(count))
    return ends
