"""Which tokens each attention block kept, counted while a run lasts, for maps of the picture."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from torch import Tensor

from ...atedm_core.tokens import TokenSubset
from ...atedm_core.unet.structure import AttentionBlock, UNetStructure
from ..host.kept_counts import KeptCounts


@dataclass
class TokenMaps:
    """Counts in how many model calls each block kept each token.

    Only model calls on the whole picture are counted: a call on a part of it has a token grid of its own.

    Attributes:
        structure: of the model.
        latent: (height, width) of the whole picture's latent.
        parts: pruned calls that ran on a part of the picture.
    """

    structure: UNetStructure
    latent: tuple[int, int]
    parts: int = 0
    _counts: KeptCounts = field(default_factory=KeptCounts)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, block: AttentionBlock, grid: tuple[int, int], subset: TokenSubset, conditions: int) -> None:
        """Count what one block kept in one model call."""
        if grid != self.structure.grid(block.level, self.latent):
            with self._lock:
                self.parts += 1
            return
        self._counts.add(block.name, subset.keep_index, subset.total, conditions)

    def shares(self, block: AttentionBlock, whole: int) -> Tensor | None:
        """`[S, height, width]` share of calls in which each token was computed; `None` where nothing was pruned.

        Args:
            block: which.
            whole: calls that pruned nothing there; which of them ran on parts of the picture is not known.
        """
        grid = self.structure.grid(block.level, self.latent)
        return self._counts.shares(block.name, whole if self.parts == 0 else 0, grid)
