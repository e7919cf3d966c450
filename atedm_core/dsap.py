"""Denoising-Steps-Aware Pruning (DSAP): how much to prune where, as a function of sampling progress and block.

AT-EDM (Wang et al., CVPR 2024, section 3.3): attention maps of early steps say little and early steps fix the layout,
so for the first 15 of 50 steps the first attention block of each down stage and the last of each up stage stay whole.
A stage is a run of attention blocks at one resolution on one side of the U-Net; which blocks those are follows from
the model's structure (`unet.UNetStructure`), never from SDXL's block numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .unet import AttentionBlock

EarlyBlocks = Literal["stage ends", "all", "none"]
EARLY_BLOCKS: tuple[EarlyBlocks, ...] = get_args(EarlyBlocks)

MAX_RATIO = 0.95
DEFAULT_RATIO = 0.63
DEFAULT_EARLY_PERCENT = 0.3


@dataclass(frozen=True)
class DSAPSchedule:
    """The share of tokens to drop, by progress and attention block.

    Attributes:
        prune_ratio: 0 to 0.95, the ratio wherever nothing else is said.
        early_percent: 0 to 1, the share of the noise range that counts as early, in ComfyUI's percent convention
            (0 is the most noise). The paper's 0.3.
        early_ratio: 0 to 0.95, the most that the spared blocks are pruned early. The paper's 0.
        early_blocks: which blocks are spared early: `stage ends` (the paper: the first of each down stage and the
            last of each up stage), `all`, or `none`.

    Raises:
        ValueError: a value is outside its range.
    """

    prune_ratio: float = DEFAULT_RATIO
    early_percent: float = DEFAULT_EARLY_PERCENT
    early_ratio: float = 0.0
    early_blocks: EarlyBlocks = "stage ends"

    def __post_init__(self) -> None:
        _check_range("prune_ratio", self.prune_ratio, MAX_RATIO)
        _check_range("early_percent", self.early_percent, 1.0)
        _check_range("early_ratio", self.early_ratio, MAX_RATIO)
        if self.early_blocks not in EARLY_BLOCKS:
            raise ValueError(f"early_blocks is {self.early_blocks!r}: choose one of {', '.join(EARLY_BLOCKS)}")

    def ratio(self, progress: float, block: AttentionBlock) -> float:
        """The share of tokens to drop in `block` at `progress` (0 to 1, from most to least noise)."""
        if progress < self.early_percent and self._spares(block):
            return min(self.early_ratio, self.prune_ratio)
        return self.prune_ratio

    def _spares(self, block: AttentionBlock) -> bool:
        if self.early_blocks == "all":
            return True
        return self.early_blocks == "stage ends" and block.ends_stage


def _check_range(name: str, value: float, highest: float) -> None:
    if not 0.0 <= value <= highest:
        raise ValueError(f"{name} is {value}: give a number from 0 to {highest:g}")
