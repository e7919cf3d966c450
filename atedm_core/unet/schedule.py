"""Denoising-Steps-Aware Pruning (DSAP): how much to prune where, as a function of sampling progress and block.

AT-EDM (Wang et al., CVPR 2024, section 3.3): attention maps of early steps say little and early steps fix the layout,
so for the first 15 of 50 steps the first attention block of each down stage and the last of each up stage stay whole
(`structure.stage_ends`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..checks import check_choice, check_range
from .sparing import BlockShare, block_shares, ratios_with_mean
from .structure import LEVEL_NAMES, AttentionBlock, UNetStructure

EarlyBlocks = Literal["stage ends", "all", "none"]
Ramp = Literal["step", "linear", "cosine"]
EARLY_BLOCKS: tuple[EarlyBlocks, ...] = get_args(EarlyBlocks)
RAMPS: tuple[Ramp, ...] = get_args(Ramp)

MAX_RATIO = 0.95
PAPER_RATIO, PAPER_EARLY_PERCENT = 0.63, 0.3
DEFAULT_RATIO, DEFAULT_EARLY_PERCENT = 0.66, 0.0
"""No block is spared early; shallow levels and late blocks are, always (`docs/fidelity.md`)."""
SHALLOW = 0.5
"""A level is shallow whose deepest attention block has less than this share of the model's most layers."""
MAX_LEVEL_SCALE = 2.0


@dataclass(frozen=True)
class DSAPSchedule:
    """The share of tokens to drop, by progress and attention block; a ValueError names a value outside its range.

    Attributes:
        prune_ratio: 0 to 0.95, the ratio wherever nothing else is said.
        early_percent: 0 to 1, the share of the noise range that counts as early, in ComfyUI's percent convention
            (0 is the most noise); at 0 all steps are pruned alike.
        early_ratio: 0 to 0.95, the most that the spared blocks are pruned early; 0 in the paper.
        early_blocks: which blocks are spared early: `stage ends` (the paper), `all`, or `none`.
        ramp: how spared blocks come to the full ratio: in one `step` when the early phase ends (the paper), or
            `linear` or `cosine` over the early phase.
        level_scales: 0 to 2 in the order of `LEVEL_NAMES`, what `prune_ratio` is multiplied with, up to 0.95; 1 where
            none is given. 0 leaves a level whole, as the paper's dagger variant does at SDXL's half-resolution level.
            `None` for what suits the model (`for_model`).
        block_shares: the blocks that are pruned, each more or less than the others, so that `prune_ratio` is their
            mean; none for all alike. `for_model` fills them in.
        only_where_it_pays: whether blocks stay whole in which choosing tokens takes most of what is saved
            (`pruned_cost`). `for_model` says so where no levels were given.
    """

    prune_ratio: float = DEFAULT_RATIO
    early_percent: float = DEFAULT_EARLY_PERCENT
    early_ratio: float = 0.0
    early_blocks: EarlyBlocks = "stage ends"
    ramp: Ramp = "step"
    level_scales: tuple[float, ...] | None = None
    block_shares: tuple[BlockShare, ...] = ()
    only_where_it_pays: bool = False

    def __post_init__(self) -> None:
        check_range("prune_ratio", self.prune_ratio, 0.0, MAX_RATIO)
        check_range("early_percent", self.early_percent, 0.0, 1.0)
        check_range("early_ratio", self.early_ratio, 0.0, MAX_RATIO)
        check_choice("early_blocks", self.early_blocks, EARLY_BLOCKS)
        check_choice("ramp", self.ramp, RAMPS)
        scales = self.level_scales or ()
        if len(scales) > len(LEVEL_NAMES):
            raise ValueError(f"level_scales has {len(scales)} values: give at most {len(LEVEL_NAMES)}")
        for name, scale in zip(LEVEL_NAMES, scales, strict=False):
            check_range(f"{name}_level", scale, 0.0, MAX_LEVEL_SCALE)

    def ratio(self, progress: float, block: AttentionBlock) -> float:
        """The share of tokens to drop in `block` at `progress` (0 to 1, from most to least noise)."""
        scales = self.level_scales or ()
        scale = scales[block.level] if block.level < len(scales) else 1.0
        full = min(MAX_RATIO, self._ratio_of(block) * scale)
        spared = self.early_blocks == "all" or (self.early_blocks == "stage ends" and block.ends_stage)
        if progress >= self.early_percent or not spared:
            return full
        low = min(self.early_ratio, full)
        share = progress / self.early_percent
        risen = {"step": 0.0, "linear": share, "cosine": (1.0 - math.cos(math.pi * share)) / 2.0}[self.ramp]
        return low + (full - low) * risen

    def _ratio_of(self, block: AttentionBlock) -> float:
        if not self.block_shares:
            return self.prune_ratio
        return ratios_with_mean(self.prune_ratio, self.block_shares).get(block.name, 0.0)

    def for_model(self, structure: UNetStructure) -> DSAPSchedule:
        """The same with the levels and blocks that suit a model, where no levels were given.

        Its shallow levels stay whole: a block's first layer runs on all tokens, so in a shallow block little is saved
        for the same error (SDXL's half-resolution blocks have 2 layers, its quarter-resolution ones 10). Where that
        leaves one level, its late blocks are spared at the cost of its early ones (`sparing`). A block is pruned at
        the sizes at which that pays.
        """
        if self.level_scales is not None:
            return self
        depths: dict[int, int] = {}
        for block in structure.blocks:
            depths[block.level] = max(block.layers, depths.get(block.level, 0))
        most = max(depths.values(), default=0)
        scales = tuple(float(depths.get(level, most) >= SHALLOW * most) for level in range(len(LEVEL_NAMES)))
        deep = [level for level in depths if scales[level] > 0]
        shares = block_shares(structure, deep[0]) if len(deep) == 1 else ()
        return replace(self, level_scales=scales, block_shares=shares, only_where_it_pays=True)

    def check_levels(self, structure: UNetStructure) -> None:
        """Refuse, by a ValueError that names it, a scale for a level at which the model has no attention."""
        present = {block.level for block in structure.blocks}
        for level, scale in enumerate(self.level_scales or ()):
            if scale != 1.0 and level not in present:
                has = ", ".join(LEVEL_NAMES[found] for found in sorted(present))
                raise ValueError(
                    f"{LEVEL_NAMES[level]}_level is {scale:g}, but this model has no attention at that level, "
                    f"only at: {has}. Set it back to 1, and scale one of those."
                )


DEFAULT_SCHEDULE = DSAPSchedule()
PAPER_SCHEDULE = DSAPSchedule(PAPER_RATIO, PAPER_EARLY_PERCENT, level_scales=())
