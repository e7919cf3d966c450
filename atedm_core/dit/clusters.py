"""Groups of neighbouring tokens that behave alike: Lloyd's k-means, and what a group's members say together.

CAT Pruning (Cheng et al., arXiv 2502.00433) groups the tokens of an image once and spreads its choice over the groups.
Everything here is deterministic: the start is a fixed lattice, sums are matrix products, ties go to the lower index.

B images, N tokens on a grid of (height, width), F features, C clusters, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LLOYD_ITERATIONS = 12
# Multiples of these two numbers, modulo 1, cover the unit square evenly however many there are (Roberts' R2 sequence).
_PLASTIC = 1.32471795724474602596
LATTICE = (1.0 / _PLASTIC, 1.0 / _PLASTIC**2)


@dataclass(frozen=True)
class Clusters:
    """The tokens of each image in C groups.

    Attributes:
        members: `[B, N, C]` float32, 1 where the token belongs to the cluster and 0 elsewhere.
        neighbours: `[B, C, C]` bool, true where two clusters touch on the 4-neighbour grid, and on the diagonal.
    """

    members: Tensor
    neighbours: Tensor

    @property
    def labels(self) -> Tensor:
        """`[B, N]` int64, the cluster of each token."""
        return self.members.argmax(dim=-1)

    @property
    def sizes(self) -> Tensor:
        """`[B, C]` int64, tokens in each cluster; a cluster may be empty."""
        return self.members.sum(dim=1).long()

    def maximum(self, values: Tensor) -> Tensor:
        """The largest value among each cluster's members, sign kept: `[B, N, D]` -> `[B, C, D]`, 0 if empty."""
        count = self.members.shape[-1]
        index = self.labels.unsqueeze(-1).expand_as(values)
        start = values.new_zeros(values.shape[0], count, values.shape[-1])
        return start.scatter_reduce(1, index, values, "amax", include_self=False)

    def pooled(self, vectors: Tensor) -> Tensor:
        """Twice the mean plus the maximum over each cluster and those that touch it: `[B, C, D]` -> `[B, C, D]`."""
        counted = self.neighbours & (self.sizes > 0).unsqueeze(1)
        weights = counted.to(vectors.dtype)
        mean = (weights @ vectors) / weights.sum(dim=-1, keepdim=True).clamp_min(1.0)
        hidden = ~counted.unsqueeze(-1)
        largest = vectors.unsqueeze(1).masked_fill(hidden, float("-inf")).amax(dim=2)
        return 2.0 * mean + largest.masked_fill(largest.isinf(), 0.0)


def cluster_tokens(features: Tensor, grid: tuple[int, int], clusters: int) -> Clusters:
    """Lloyd's iterations from centres spread evenly over the grid.

    Args:
        features: `[B, N, F]`; computed in float32.
        grid: (height, width) in tokens.
        clusters: how many groups, 1 or more; at most N are made.

    Raises:
        ValueError: `grid` does not have N places, or `clusters` is below 1.
    """
    tokens = features.shape[1]
    if grid[0] * grid[1] != tokens or clusters < 1:
        raise ValueError(
            f"cannot put {tokens} tokens of a {grid[0]} x {grid[1]} grid in {clusters} clusters: "
            "height * width must be the number of tokens, and clusters 1 or more"
        )
    features = features.float()
    centres = features[:, _spread_over(grid, min(clusters, tokens)).to(features.device)]
    members = _nearest(features, centres)
    for _ in range(LLOYD_ITERATIONS):
        sizes = members.sum(dim=1).unsqueeze(-1)
        means = members.transpose(1, 2) @ features / sizes.clamp_min(1.0)
        centres = torch.where(sizes > 0, means, centres)
        members = _nearest(features, centres)
    return Clusters(members, _touching(members, grid))


def lattice_rank(grid: tuple[int, int]) -> Tensor:
    """`[N]` int64 on the CPU: an order of the grid's places in which every stretch covers the whole grid evenly."""
    rows = torch.arange(grid[0], dtype=torch.float64).unsqueeze(1)
    columns = torch.arange(grid[1], dtype=torch.float64).unsqueeze(0)
    phase = (rows * LATTICE[0] + columns * LATTICE[1]).remainder(1.0)
    return phase.flatten().sort(stable=True).indices


def _spread_over(grid: tuple[int, int], count: int) -> Tensor:
    """`[count]` int64: positions that cover the grid evenly."""
    number = torch.arange(1, count + 1, dtype=torch.float64)
    row, column = ((number * step + 0.5).remainder(1.0) * side for step, side in zip(LATTICE, grid, strict=True))
    return row.long() * grid[1] + column.long()


def _nearest(features: Tensor, centres: Tensor) -> Tensor:
    """`[B, N, C]` float32: 1 at the nearest centre of each token."""
    # The token's own square is the same for every centre, so it is left out.
    distance = centres.square().sum(dim=-1).unsqueeze(1) - 2.0 * features @ centres.transpose(1, 2)
    return torch.nn.functional.one_hot(distance.argmin(dim=-1), centres.shape[1]).float()


def _touching(members: Tensor, grid: tuple[int, int]) -> Tensor:
    """`[B, C, C]` bool: clusters with two tokens side by side or one below the other; each touches itself."""
    count = members.shape[-1]
    placed = members.unflatten(1, grid)
    beside = placed[:, :, :-1].flatten(1, 2).transpose(1, 2) @ placed[:, :, 1:].flatten(1, 2)
    below = placed[:, :-1].flatten(1, 2).transpose(1, 2) @ placed[:, 1:].flatten(1, 2)
    pairs = beside + below
    itself = torch.eye(count, dtype=torch.bool, device=members.device)
    return (pairs + pairs.transpose(1, 2) > 0) | itself
