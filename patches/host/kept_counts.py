"""How often every token was computed, counted on the model's device while a run lasts, for maps of the picture."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

MAPPED_SAMPLES = 4
"""Pictures of a batch, from the first on, whose token maps are recorded."""


@dataclass
class _Counts:
    kept: Tensor
    conditions: int = 0


@dataclass
class KeptCounts:
    """Counts by place; one small addition for each pruned call of a place. Nothing is read back before the end."""

    _counts: dict[tuple[Hashable, torch.device], _Counts] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, place: Hashable, keep: Tensor, tokens: int, conditions: int) -> None:
        """A pruned call.

        Args:
            place: where.
            keep: `[R, K]` int64, the tokens that it computed; R is conditions times pictures.
            tokens: N, on the full grid.
            conditions: how many were batched in the call.
        """
        samples = min(keep.shape[0] // conditions, MAPPED_SAMPLES)
        with self._lock:
            found = self._counts.get((place, keep.device))
            if found is None:
                found = _Counts(torch.zeros(samples, tokens, dtype=torch.int32, device=keep.device))
                self._counts[place, keep.device] = found
            if found.kept.shape[0] == samples:
                index = keep.unflatten(0, (conditions, -1))[:, :samples].transpose(0, 1).flatten(1)
                found.kept.scatter_add_(1, index, torch.ones_like(index, dtype=torch.int32))
                found.conditions += conditions

    def shares(self, place: Hashable, whole: int, grid: tuple[int, int]) -> Tensor | None:
        """`[S, height, width]` float32 on the CPU: the share of calls in which each token was computed.

        Args:
            place: where.
            whole: calls that computed all tokens there, counted once for each condition.
            grid: (height, width) in tokens.

        Returns:
            `None` where nothing was pruned.
        """
        found = [counts for (name, _), counts in self._counts.items() if name == place]
        if not found:
            return None
        kept = sum((counts.kept.cpu() for counts in found[1:]), found[0].kept.cpu())
        seen = sum(counts.conditions for counts in found)
        return ((kept + whole) / (seen + whole)).float().unflatten(1, grid)


def note_on_samples(samples: int) -> tuple[str, ...]:
    """What to say of a batch of so many pictures whose maps were recorded."""
    if samples <= MAPPED_SAMPLES:
        return ()
    return (f"token maps are recorded for the first {MAPPED_SAMPLES} pictures of a batch",)
