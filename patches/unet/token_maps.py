"""Which tokens each attention block kept, counted while a run lasts, for maps of the picture."""

from __future__ import annotations

import threading

from torch import Tensor

from ...atedm_core.tokens import TokenSubset
from ...atedm_core.unet.structure import AttentionBlock, UNetStructure
from ..host.kept_counts import KeptCounts


class TokenMaps:
    """Counts in how many model calls each block kept each token of a picture whose latent is (height, width).

    A call on a part of the picture has a token grid of its own and is left out; `parts` is how many of them pruned.
    """

    def __init__(self, structure: UNetStructure, latent: tuple[int, int]) -> None:
        self.parts = 0
        self._structure, self._latent = structure, latent
        self._counts, self._lock = KeptCounts(), threading.Lock()

    def add(self, block: AttentionBlock, grid: tuple[int, int], subset: TokenSubset, conditions: int) -> None:
        """Count what one block kept in one model call."""
        if grid == self._structure.grid(block.level, self._latent):
            self._counts.add(block.name, subset.keep_index, subset.total, conditions)
        else:
            with self._lock:
                self.parts += 1

    def shares(self, block: AttentionBlock, whole: int) -> Tensor | None:
        """`[S, height, width]` share of calls in which each token was computed; `None` where nothing was pruned.

        `whole` calls pruned nothing there; which of them ran on parts of the picture is not known.
        """
        grid = self._structure.grid(block.level, self._latent)
        return self._counts.shares(block.name, whole if self.parts == 0 else 0, grid)
