"""Which tokens a diffusion transformer recomputes at a step: CAT Pruning's choice (Cheng et al., arXiv 2502.00433).

The model's output for a token is called its noise, whatever the model predicts. A part of the choice, the hot share,
goes to clusters of tokens whose noise has changed most since a reference step; the rest goes to the tokens that were
recomputed least often. An unselected token keeps the noise it had.

Where the paper and its published code differ, `CATSelection` has an option whose default is the published code's. Three
things are fixed, because transformers run here on the selected tokens alone:

* An unselected token's change is that of the noise it keeps. The published code carries all tokens through the
  unpruned parts of the network, and scores an unselected one by what comes out.
* Exactly K tokens are selected. The published code selects up to K where hot and stale tokens overlap.
* Every image has a set of its own, shared by its conditions.

B images, N tokens on a grid, K selected tokens, D channels of noise per token, C clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..checks import check_choice, check_range
from .clusters import Clusters, cluster_tokens, lattice_rank
from .quotas import cluster_places, first_hot, later_hot

ChooseBy = Literal["published", "expected error"]
Reference = Literal["step before last", "last full step"]
ClusterBy = Literal["noise", "change"]
Position = Literal["added", "concatenated"]
Pooling = Literal["first set", "every set", "never"]
TieOrder = Literal["raster", "scattered"]
_CHOICES = {
    "choose_by": ChooseBy,
    "reference": Reference,
    "cluster_by": ClusterBy,
    "position": Position,
    "pooling": Pooling,
    "tie_order": TieOrder,
}

DEFAULT_KEEP = 0.3
MAX_CLUSTERS = 256
_NOISE_WEIGHT = 0.05


@dataclass(frozen=True)
class CATSelection:
    """How tokens are chosen. Defaults are those of the published code.

    Attributes:
        keep_ratio: share of tokens recomputed in a pruned step, above 0 and up to 1; 0.3 in the paper.
        clusters: groups per image; 20.
        hot_share: share of the selected tokens that goes to the clusters that changed most, 0 to 1; 0.25. With 0
            nothing but how often a token was recomputed counts (round robin).
        decay: how much of a token's past selections still counts at the next step, 0 to 1; 0.5.
        stale_in_cluster: within every cluster but the first, this share of its quota is added for the members
            recomputed least often; 0.5. The paper leaves it out of its algorithm.
        reference: what a change is measured from: the noise of the full step before the last one (published code),
            or of the last (paper), which leaves the first set without any change to go by.
        cluster_by: tokens are grouped by their noise (published code) or by its change (paper).
        position: the grid position is added to the noise (published code) or stands beside it (paper).
        pooling: a cluster's score takes in the clusters around it for the first set (published code), for every set
            (paper), or never.
        tie_order: among tokens recomputed equally often, `raster` takes the topmost first, as the published code does
            on a GPU; `scattered` takes them evenly from the whole image.
        choose_by: `published` is all of the above; `expected error` goes by nothing but how wrong a token is likely to
            have become (`expected_error`).
    """

    keep_ratio: float = DEFAULT_KEEP
    clusters: int = 20
    hot_share: float = 0.25
    decay: float = 0.5
    stale_in_cluster: float = 0.5
    reference: Reference = "step before last"
    cluster_by: ClusterBy = "noise"
    position: Position = "added"
    pooling: Pooling = "first set"
    tie_order: TieOrder = "raster"
    choose_by: ChooseBy = "published"

    def __post_init__(self) -> None:
        if not 0.0 < self.keep_ratio <= 1.0:
            raise ValueError(f"keep_ratio is {self.keep_ratio}: give a share of tokens above 0 and up to 1")
        check_range("clusters", self.clusters, 1, MAX_CLUSTERS)
        for name in ("hot_share", "decay", "stale_in_cluster"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), get_args(choices))

    def kept(self, tokens: int) -> int:
        """How many of `tokens` are recomputed, at least 1.

        >>> CATSelection().kept(4096)
        1228
        """
        # The guard against 0.29999... keeps whole products whole.
        return max(1, math.floor(self.keep_ratio * tokens + 1e-9))


DEFAULT_SELECTION = CATSelection(choose_by="expected error")
"""What came nearest to the full run at equal FLOPs (`docs/cat_fidelity.md`)."""


class TokenSelector:
    """Chooses the tokens of step after step from the noise it is shown. One for each run; it holds tensors.

    Show it every step's noise with `observe`; ask with `choose` for the set of the next pruned step.

    Attributes:
        grid: (height, width) in tokens.
    """

    def __init__(self, settings: CATSelection, grid: tuple[int, int]) -> None:
        self.settings = settings
        self.grid = grid
        self.reset()

    def reset(self) -> None:
        """Forget everything seen and chosen."""
        self._reference: Tensor | None = None
        self._latest: Tensor | None = None
        self._clusters: Clusters | None = None
        self._frequency: Tensor | None = None
        self._chosen: Tensor | None = None
        self._scattered: Tensor | None = None

    @property
    def waited(self) -> Tensor | None:
        """Nobody counts steps here: what is kept of an unselected token stays as it is."""
        return None

    @property
    def ready(self) -> bool:
        """Whether enough full steps have been seen to choose by: two, or one where the last is the reference."""
        return self._reference is not None

    def observe(self, noise: Tensor, *, full: bool, again: bool = False, sigma: float = 1.0) -> None:
        """The noise of all tokens after a step.

        Args:
            noise: `[B, N, D]`; unselected tokens with what they kept.
            full: every token was recomputed. What was known about clusters and frequency is then dropped.
            again: the same step as the last, evaluated another time; it does not become the reference.
            sigma: the step's noise level, which does not matter here.
        """
        # A copy: whoever shows it may go on changing it.
        noise = noise.to(torch.float32, copy=True)
        if self._latest is not None and self._latest.shape != noise.shape:
            self.reset()
        if full:
            if self.settings.reference == "last full step":
                self._reference = noise
            elif not again:
                self._reference = self._latest
            self._clusters = self._frequency = self._chosen = None
        self._latest = noise

    def choose(self, forced: Tensor | None = None) -> Tensor:
        """Positions of the tokens of the next pruned step: `[B, K]` int64, ascending.

        Args:
            forced: `[B, N]` bool, tokens that must be among them; no more than K in any image.

        Raises:
            RuntimeError: too few full steps were observed.
        """
        if self._reference is None or self._latest is None:
            raise RuntimeError("no tokens can be chosen yet: two full steps have to be observed first")
        images, tokens, _ = self._latest.shape
        keep = self.settings.kept(tokens)
        first = self._chosen is None
        self._frequency = self._updated_frequency(images, tokens)
        change = self._latest - self._reference
        priority = self._frequency
        if self.settings.hot_share > 0:
            priority = priority.masked_fill(self._hot(change, keep, first), -1.0)
        if forced is not None:
            priority = priority.masked_fill(forced, -2.0)
        self._chosen = self._lowest(priority)[:, :keep].sort(dim=1).values
        return self._chosen

    def _updated_frequency(self, images: int, tokens: int) -> Tensor:
        if self._frequency is None or self._chosen is None:
            assert self._latest is not None
            return self._latest.new_zeros(images, tokens)
        # f <- a f + 1 for what was selected, counted from the first pruned step on.
        aged = self._frequency * self.settings.decay
        return aged.scatter_add(1, self._chosen, torch.ones_like(self._chosen, dtype=aged.dtype))

    def _hot(self, change: Tensor, keep: int, first: bool) -> Tensor:
        """`[B, N]` bool: the tokens that go in for their clusters' change."""
        settings = self.settings
        if self._clusters is None:
            assert self._latest is not None
            signal = self._latest if settings.cluster_by == "noise" else change
            self._clusters = cluster_tokens(with_position(signal, self.grid, settings), self.grid, settings.clusters)
        assert self._frequency is not None
        vectors = self._clusters.maximum(change)
        if settings.pooling == "every set" or (settings.pooling == "first set" and first):
            vectors = self._clusters.pooled(vectors)
        magnitude = change.norm(dim=-1)
        place = cluster_places(self._clusters, vectors.norm(dim=-1))
        if first:
            return first_hot(self._clusters, place, magnitude, keep)
        stale, shares = self._lowest(self._frequency), (settings.hot_share, settings.stale_in_cluster)
        return later_hot(self._clusters, place, magnitude, stale, keep, *shares)

    def _lowest(self, values: Tensor) -> Tensor:
        """`[B, N]` int64: positions by ascending value, ties in the chosen order."""
        if self.settings.tie_order == "raster":
            return values.sort(dim=1, stable=True).indices
        if self._scattered is None or self._scattered.device != values.device:
            self._scattered = lattice_rank(self.grid).to(values.device)
        return self._scattered[values[:, self._scattered].sort(dim=1, stable=True).indices]


def with_position(noise: Tensor, grid: tuple[int, int], settings: CATSelection) -> Tensor:
    """Features that tokens are grouped by: weighted noise and the position on the grid, each coordinate in [0, 1).

    `[B, N, D]` -> `[B, N, D]` where the position is added (the row to the first half of the channels, the column to the
    second), `[B, N, D + 2]` where it is concatenated.
    """
    height, width = grid
    row = torch.arange(height, device=noise.device, dtype=noise.dtype) / height
    column = torch.arange(width, device=noise.device, dtype=noise.dtype) / width
    rows = row.repeat_interleave(width).view(1, -1, 1)
    columns = column.repeat(height).view(1, -1, 1)
    weighted = noise * _NOISE_WEIGHT
    if settings.position == "concatenated":
        return torch.cat((weighted, *(place.expand(noise.shape[0], -1, 1) for place in (rows, columns))), dim=-1)
    half = noise.shape[-1] // 2
    return torch.cat((weighted[..., :half] + rows, weighted[..., half:] + columns), dim=-1)
