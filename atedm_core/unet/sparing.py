"""Which attention blocks are pruned less than others, because an error in them costs the picture more.

Pruned alone, all by the same ratio, the last block of the deepest up stage departs from the full latent by 27 to 31 dB
more than one before the up stage, the last but one by 21 (filled in by `update`; `docs/fidelity.md` has pictures, and
today's): what goes wrong early in the U-Net, later blocks still see and mend; the last one's error goes straight on to
the picture. AT-EDM spares the last block of every up stage in early steps (Wang et al., CVPR 2024, section 3.3); here
it is spared in all steps. Where several levels are pruned blocks are pruned alike: how much they bear beside each other
was not settled.

Errors of different blocks add, and each grows about exponentially with the ratio. For a given mean ratio their sum is
least where one more token costs the same in every block (the Lagrange condition): at a common ratio, less an offset of
the block's own, within limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from .structure import UNetStructure

LATE_OFFSETS = (0.9, 0.48, 0.06)
"""By how much less of their tokens the last, the last but one and the third but last block of an up stage drop."""
MOST_SPREAD = 0.9
"""No block drops more than this for the sake of another: the lattice of anchors takes a sixteenth of all tokens."""
_HALVINGS = 40


@dataclass(frozen=True)
class BlockShare:
    """One attention block in the mean over all: what it weighs there, and by how much less it is pruned (0 to 1)."""

    name: str
    weight: float
    offset: float


def block_shares(structure: UNetStructure, level: int) -> tuple[BlockShare, ...]:
    """The blocks at a level, in running order; each weighs what its layers' matrix products cost."""
    blocks = [block for block in structure.blocks if block.level == level]
    late = dict(zip(reversed([block.name for block in blocks if block.part == "output"]), LATE_OFFSETS, strict=False))
    return tuple(BlockShare(block.name, block.layers * block.width**2, late.get(block.name, 0.0)) for block in blocks)


@lru_cache(maxsize=256)
def ratios_with_mean(mean: float, shares: tuple[BlockShare, ...]) -> Mapping[str, float]:
    """The share of tokens that each block drops, by its name, so that their weighted mean is `mean` (0 to 1).

    No ratio is above `MOST_SPREAD`, or above `mean` where that is more.
    """
    most = max(MOST_SPREAD, mean)
    total = sum(share.weight for share in shares)

    def ratios(common: float) -> dict[str, float]:
        return {share.name: min(most, max(0.0, common - share.offset)) for share in shares}

    low, high = 0.0, most + max((share.offset for share in shares), default=0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = ratios(middle)
        reached = sum(share.weight * found[share.name] for share in shares)
        low, high = (middle, high) if reached < mean * total else (low, middle)
    return MappingProxyType(ratios(high))
