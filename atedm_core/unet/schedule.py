"""Denoising-Steps-Aware Pruning (DSAP): how much to prune where, as a function of sampling progress and block.

AT-EDM (Wang et al., CVPR 2024, section 3.3): attention maps of early steps say little and early steps fix the layout,
so for the first 15 of 50 steps the first attention block of each down stage and the last of each up stage stay whole.
A stage is a run of attention blocks at one resolution on one side of the U-Net; which blocks those are follows from
the model's structure (`unet.UNetStructure`), never from SDXL's block numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_choice, check_range
from .structure import LEVEL_NAMES, AttentionBlock, UNetStructure

EarlyBlocks = Literal["stage ends", "all", "none"]
Ramp = Literal["step", "linear", "cosine"]
EARLY_BLOCKS: tuple[EarlyBlocks, ...] = get_args(EarlyBlocks)
RAMPS: tuple[Ramp, ...] = get_args(Ramp)

MAX_RATIO = 0.95
PAPER_RATIO, PAPER_EARLY_PERCENT = 0.63, 0.3
DEFAULT_RATIO, DEFAULT_EARLY_PERCENT = 0.56, 0.0
"""No block is spared early, and a lower ratio pays for it (`docs/fidelity.md`)."""
MAX_LEVEL_SCALE = 2.0


@dataclass(frozen=True)
class DSAPSchedule:
    """The share of tokens to drop, by progress and attention block.

    Attributes:
        prune_ratio: 0 to 0.95, the ratio wherever nothing else is said. The paper's is 0.63.
        early_percent: 0 to 1, the share of the noise range that counts as early, in ComfyUI's percent convention
            (0 is the most noise). The paper's is 0.3; at 0 all steps are pruned alike.
        early_ratio: 0 to 0.95, the most that the spared blocks are pruned early. The paper's 0.
        early_blocks: which blocks are spared early: `stage ends` (the paper: the first of each down stage and the
            last of each up stage), `all`, or `none`.
        ramp: how spared blocks come to the full ratio: in one `step` when the early phase ends (the paper), or
            `linear` or `cosine` over the early phase.
        level_scales: by resolution level, what `prune_ratio` is multiplied with there, 0 to 2; the result is at most
            0.95. 0 leaves a level whole, as the paper's dagger variant does at SDXL's half-resolution level. In the
            order of `unet.LEVEL_NAMES`; levels that are not given count 1.

    Raises:
        ValueError: a value is outside its range.
    """

    prune_ratio: float = DEFAULT_RATIO
    early_percent: float = DEFAULT_EARLY_PERCENT
    early_ratio: float = 0.0
    early_blocks: EarlyBlocks = "stage ends"
    ramp: Ramp = "step"
    level_scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_range("prune_ratio", self.prune_ratio, 0.0, MAX_RATIO)
        check_range("early_percent", self.early_percent, 0.0, 1.0)
        check_range("early_ratio", self.early_ratio, 0.0, MAX_RATIO)
        check_choice("early_blocks", self.early_blocks, EARLY_BLOCKS)
        check_choice("ramp", self.ramp, RAMPS)
        if len(self.level_scales) > len(LEVEL_NAMES):
            raise ValueError(f"level_scales has {len(self.level_scales)} values: give at most {len(LEVEL_NAMES)}")
        for name, scale in zip(LEVEL_NAMES, self.level_scales, strict=False):
            check_range(f"{name}_level", scale, 0.0, MAX_LEVEL_SCALE)

    def ratio(self, progress: float, block: AttentionBlock) -> float:
        """The share of tokens to drop in `block` at `progress` (0 to 1, from most to least noise)."""
        full = min(MAX_RATIO, self.prune_ratio * self._level_scale(block.level))
        if progress >= self.early_percent or not self._spares(block):
            return full
        low = min(self.early_ratio, full)
        return low + (full - low) * self._risen(progress / self.early_percent)

    def check_levels(self, structure: UNetStructure) -> None:
        """Refuse, by name, a scale for a resolution level at which the model has no attention.

        Raises:
            ValueError: naming the level and those that the model has.
        """
        present = {block.level for block in structure.blocks}
        for level, scale in enumerate(self.level_scales):
            if scale != 1.0 and level not in present:
                has = ", ".join(LEVEL_NAMES[found] for found in sorted(present))
                raise ValueError(
                    f"{LEVEL_NAMES[level]}_level is {scale:g}, but this model has no attention at that level, "
                    f"only at: {has}. Set it back to 1, and scale one of those."
                )

    def _level_scale(self, level: int) -> float:
        return self.level_scales[level] if level < len(self.level_scales) else 1.0

    def _spares(self, block: AttentionBlock) -> bool:
        if self.early_blocks == "all":
            return True
        return self.early_blocks == "stage ends" and block.ends_stage

    def _risen(self, share: float) -> float:
        """How far a ramp has come after `share` of the early phase, 0 to 1."""
        if self.ramp == "linear":
            return share
        return (1.0 - math.cos(math.pi * share)) / 2.0 if self.ramp == "cosine" else 0.0


DEFAULT_SCHEDULE = DSAPSchedule()
PAPER_SCHEDULE = DSAPSchedule(PAPER_RATIO, PAPER_EARLY_PERCENT)
