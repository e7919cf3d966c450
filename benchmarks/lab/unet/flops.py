"""What a run costs on the demo model, and what the same decisions cost on SDXL at 1024 px.

Attention is a smaller share of the demo model than of SDXL, so the same pruning saves less of it. A distance is
therefore given beside both shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ...pack.atedm_core.tokens import kept_tokens
from ...pack.atedm_core.unet.flops import block_flops, self_attention_flops, unet_flops
from ...pack.atedm_core.unet.settings import PrunePoint, prune_point
from ...pack.atedm_core.unet.structure import AttentionBlock, UNetStructure
from .cases import Pruning
from .sdxl import SDXL_LATENT, sdxl


@dataclass(frozen=True)
class Pruned:
    """One attention block in one model call: the share of tokens it kept, for how many samples."""

    block: str
    progress: float
    kept_share: float
    samples: int


@dataclass
class Tape:
    """What happened in a run: an observer of the pack, and the model calls that a hook saw.

    Attributes:
        calls: samples in each pass through the U-Net.
        pruned: every pruning.
        saved: FLOPs that the run's own tally says pruning saved.
    """

    calls: list[int] = field(default_factory=list)
    pruned: list[Pruned] = field(default_factory=list)
    saved: int = 0

    def on_pruned(self, event: Any) -> None:
        """For the pack's `RunObserver.pruned`."""
        share = event.subset.kept / event.subset.total
        samples = event.subset.keep_index.shape[0]
        self.pruned.append(Pruned(event.block.name, event.progress, share, samples))

    def on_finished(self, run: Any, steps: int) -> None:
        """For `RunObserver.finished`."""
        total = run.total()
        self.saved += total.flops_full - total.flops


def demo_flops(tape: Tape, structure: UNetStructure, latent: tuple[int, int]) -> int:
    """Of the whole run on the demo model; ranking, gathering and filling are left out."""
    return sum(tape.calls) * unet_flops(structure, latent) - tape.saved


def sdxl_flops(tape: Tape, pruning: Pruning | None) -> float:
    """Of the same model calls on SDXL at 1024 px, each of whose blocks keeps what its namesake kept."""
    structure = sdxl()
    blocks = {block.name: block for block in structure.blocks}
    spent = float(sum(tape.calls) * unet_flops(structure, SDXL_LATENT))
    if pruning is None:
        return spent
    reached: list[float] = list(dict.fromkeys(one.progress for one in tape.pruned))
    for one in tape.pruned:
        ranks = reached.index(one.progress) % pruning.settings.rank_interval == 0
        block = blocks[one.block]
        weighted = pruning.settings.weighs and one.kept_share < 1.0
        full, pruned = _block_pair(block, round(one.kept_share, 6), _point(block, pruning, ranks), weighted)
        spent -= one.samples * (full - pruned)
    return spent


def sdxl_flops_with_tome(calls: int, ratio: float) -> float:
    """Of `calls` calls on SDXL at 1024 px with ToMe at every level: self-attention runs on the tokens left unmerged.

    A quarter of the tokens, one of every 2 x 2, is never merged.
    """
    structure = sdxl()
    saved = 0
    for block in structure.blocks:
        height, width = structure.grid(block.level, SDXL_LATENT)
        tokens = height * width
        left = tokens - min(int(tokens * ratio), tokens - tokens // 4)
        saved += block.layers * (self_attention_flops(block.width, tokens) - self_attention_flops(block.width, left))
    return float(calls * (unet_flops(structure, SDXL_LATENT) - saved))


def tome_share(ratio: float) -> float:
    """What ToMe leaves of SDXL's FLOPs at 1024 px."""
    return sdxl_flops_with_tome(1, ratio) / unet_flops(sdxl(), SDXL_LATENT)


@cache
def _block_pair(block: AttentionBlock, kept_share: float, point: PrunePoint, weighted: bool) -> tuple[int, int]:
    height, width = sdxl().grid(block.level, SDXL_LATENT)
    kept = max(1, round(height * width * kept_share))
    return block_flops(block, height * width), block_flops(block, height * width, kept, point=point, weighted=weighted)


def _point(block: AttentionBlock, pruning: Pruning, ranks: bool) -> PrunePoint:
    point = prune_point(block.layers, pruning.settings.prune_from)
    return "inside first layer" if point == "block start" and ranks else point


def planned_share(pruning: Pruning, progress: Sequence[float]) -> float:
    """SDXL's FLOPs at these points of progress over those of the same calls unpruned."""
    structure = sdxl()
    full = spent = 0
    for number, at in enumerate(progress):
        full += unet_flops(structure, SDXL_LATENT)
        spent += unet_flops(structure, SDXL_LATENT)
        for block in structure.blocks:
            point = _point(block, pruning, number % pruning.settings.rank_interval == 0)
            height, width = structure.grid(block.level, SDXL_LATENT)
            kept = kept_tokens(height * width, pruning.schedule.ratio(at, block))
            spent -= block_flops(block, height * width) - block_flops(
                block, height * width, kept, point=point, weighted=pruning.settings.weighs
            )
    return spent / full


def ratio_for(share: float, pruning_at: Callable[[float], Pruning], progress: Sequence[float]) -> float:
    """The prune ratio, to three digits, whose run comes nearest to `share` of SDXL's FLOPs; 0.05 to 0.95."""
    low, high = 50, 950
    while low < high:  # more pruning costs less
        middle = (low + high) // 2
        if planned_share(pruning_at(middle / 1000), progress) <= share:
            high = middle
        else:
            low = middle + 1
    return low / 1000
