"""CAT Pruning's choice of tokens, written out token by token: slow, and as close to the description as can be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class PlainSelector:
    """One image's choice, set after set, from the noise `[N, D]` of each step and given cluster labels."""

    labels: list[int]
    grid: tuple[int, int]
    keep: int
    hot_share: float = 0.25
    decay: float = 0.5
    stale_in_cluster: float = 0.5

    def __post_init__(self) -> None:
        self.frequency = [0.0] * len(self.labels)
        self.count = max(self.labels) + 1
        self.members = [[i for i, label in enumerate(self.labels) if label == c] for c in range(self.count)]

    def first(self, change: Tensor) -> set[int]:
        vectors = [change[m].amax(dim=0) for m in self.members]
        scores = []
        for c in range(self.count):
            around = torch.stack([vectors[other] for other in range(self.count) if other in self._touching(c)])
            scores.append(float((2 * around.mean(dim=0) + around.amax(dim=0)).norm()))
        chosen: list[int] = []
        for c in self._by_score(scores):
            chosen += self._most_changed(c, change)[: max(1, self.keep // 10)]
        return self._filled(chosen[: self.keep])

    def later(self, change: Tensor, before: set[int]) -> set[int]:
        self.frequency = [self.decay * f + (i in before) for i, f in enumerate(self.frequency)]
        scores = [float(change[m].amax(dim=0).norm()) for m in self.members]
        unit = max(1, math.floor((self.keep // 5) * self.hot_share))
        chosen: list[int] = []
        for place, c in enumerate(self._by_score(scores)):
            quota = min({0: 3, 1: 2}.get(place, 1) * unit, len(self.members[c]))
            top = self._most_changed(c, change)[:quota]
            if place > 0:
                neglected = sorted(self.members[c], key=lambda i: (self.frequency[i], i))
                top = sorted({*top, *neglected[: math.floor(quota * self.stale_in_cluster)]})
            chosen += top
        return self._filled(chosen[: math.floor(self.hot_share * self.keep)])

    def _filled(self, hot: list[int]) -> set[int]:
        rest = sorted((i for i in range(len(self.labels)) if i not in hot), key=lambda i: (self.frequency[i], i))
        return {*hot, *rest[: self.keep - len(hot)]}

    def _by_score(self, scores: list[float]) -> list[int]:
        return sorted(range(self.count), key=lambda c: (-scores[c], c))

    def _most_changed(self, cluster: int, change: Tensor) -> list[int]:
        return sorted(self.members[cluster], key=lambda i: (-float(change[i].norm()), i))

    def _touching(self, cluster: int) -> set[int]:
        height, width = self.grid
        found = {cluster}
        for i in self.members[cluster]:
            y, x = divmod(i, width)
            for near_y, near_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= near_y < height and 0 <= near_x < width:
                    found.add(self.labels[near_y * width + near_x])
        return found
