"""How often every token was computed, counted on the model's device while a run lasts, for maps of the picture."""

from __future__ import annotations

import threading
from collections.abc import Hashable

import torch
from torch import Tensor

MAPPED_SAMPLES = 4
"""Pictures of a batch, from the first on, whose token maps are recorded."""


class KeptCounts:
    """Counts by place; one small addition for each pruned call of a place. Nothing is read back before the end."""

    def __init__(self) -> None:
        # By place and device: how often each token was kept, and in how many calls, once for each condition.
        self._counts: dict[tuple[Hashable, torch.device], tuple[Tensor, int]] = {}
        self._lock = threading.Lock()

    def add(self, place: Hashable, keep: Tensor, tokens: int, conditions: int) -> None:
        """A pruned call on `keep` (`[R, K]` int64, R is conditions times pictures) of `tokens` on the full grid."""
        samples = min(keep.shape[0] // conditions, MAPPED_SAMPLES)
        index = keep.unflatten(0, (conditions, -1))[:, :samples].transpose(0, 1).flatten(1)
        key = (place, keep.device)
        with self._lock:
            if key not in self._counts:
                self._counts[key] = torch.zeros(samples, tokens, dtype=torch.int32, device=keep.device), 0
            kept, calls = self._counts[key]
            if kept.shape[0] == samples:
                kept.scatter_add_(1, index, torch.ones_like(index, dtype=torch.int32))
                self._counts[key] = kept, calls + conditions

    def shares(self, place: Hashable, whole: int, grid: tuple[int, int]) -> Tensor | None:
        """`[S, height, width]` float32 on the CPU: the share of calls in which each token of `grid` was computed.

        `whole` calls, counted once for each condition, computed all tokens there. `None` where nothing was pruned.
        """
        found = [counts for (name, _), counts in self._counts.items() if name == place]
        if not found:
            return None
        kept = sum((counts.cpu() for counts, _ in found), torch.zeros((), dtype=torch.int32))
        seen = sum(calls for _, calls in found)
        return ((kept + whole) / (seen + whole)).float().unflatten(1, grid)


def note_on_samples(samples: int) -> tuple[str, ...]:
    """What to say of a batch of so many pictures whose maps were recorded."""
    if samples <= MAPPED_SAMPLES:
        return ()
    return (f"token maps are recorded for the first {MAPPED_SAMPLES} pictures of a batch",)
