"""How CAT Pruning spreads the tokens that changed most over the clusters (Cheng et al., arXiv 2502.00433).

Whole numbers and fixed divisions are the published code's.

B images, N tokens, C clusters, K selected tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .clusters import Clusters

_FIRST_QUOTAS = 10
_LATER_QUOTAS = 5
_TOP_CLUSTERS = (3, 2)


def cluster_places(clusters: Clusters, scores: Tensor) -> Tensor:
    """`[B, C]` int64: each cluster's place by descending score, 0 the first; empty clusters come last."""
    order = scores.masked_fill(clusters.sizes == 0, float("-inf")).sort(dim=1, descending=True, stable=True).indices
    return order.argsort(dim=1)


def first_hot(clusters: Clusters, place: Tensor, magnitude: Tensor, keep: int) -> Tensor:
    """The first set: an equal quota of every cluster, the most changed tokens of each, until `keep` are reached.

    Returns:
        `[B, N]` bool with at most `keep` true in each image.
    """
    rank = rank_within(clusters, magnitude.sort(dim=1, descending=True, stable=True).indices)
    chosen = rank < max(1, keep // _FIRST_QUOTAS)
    return _cut(chosen, place.gather(1, clusters.labels), rank, keep)


def later_hot(
    clusters: Clusters,
    place: Tensor,
    magnitude: Tensor,
    stale: Tensor,
    keep: int,
    hot_share: float,
    stale_share: float,
) -> Tensor:
    """The hot share of every later set.

    The first cluster gives three units of its most changed tokens, the second two, every other one. From the second on,
    members that were recomputed least often join. A cluster is cut in grid order where the share is used up.

    Args:
        clusters: the groups.
        place: `[B, C]`, as `cluster_places` gives it.
        magnitude: `[B, N]`, how much each token changed.
        stale: `[B, N]` int64, positions from the least to the most often recomputed.
        keep: K.
        hot_share: how much of K is chosen here, 0 to 1.
        stale_share: how much of a cluster's quota is added for neglected members, 0 to 1.

    Returns:
        `[B, N]` bool with at most `hot_share` of `keep` true in each image.
    """
    labels = clusters.labels
    token_place = place.gather(1, labels)
    unit = max(1, math.floor(keep // _LATER_QUOTAS * hot_share))
    quota = torch.ones_like(token_place)
    for number, units in enumerate(_TOP_CLUSTERS):
        quota = torch.where(token_place == number, units, quota)
    quota = torch.minimum(quota * unit, clusters.sizes.gather(1, labels))
    changed = rank_within(clusters, magnitude.sort(dim=1, descending=True, stable=True).indices)
    chosen = changed < quota
    neglected = rank_within(clusters, stale) < (quota * stale_share).floor()
    chosen |= neglected & (token_place > 0)
    in_grid_order = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    within = torch.where(token_place == 0, changed, in_grid_order)
    return _cut(chosen, token_place, within, math.floor(hot_share * keep))


def rank_within(clusters: Clusters, order: Tensor) -> Tensor:
    """`[B, N]` int64: how many members of its own cluster come before each token in `order` (`[B, N]` positions)."""
    labels = clusters.labels
    by_label = labels.gather(1, order).sort(dim=1, stable=True)
    starts = clusters.sizes.cumsum(dim=1) - clusters.sizes
    ranks = torch.arange(labels.shape[1], device=labels.device) - starts.gather(1, by_label.values)
    return torch.empty_like(ranks).scatter(1, order.gather(1, by_label.indices), ranks)


def _cut(chosen: Tensor, place: Tensor, within: Tensor, limit: int) -> Tensor:
    """Of the `chosen` tokens, the first `limit` by cluster, then by `within`."""
    tokens = chosen.shape[1]
    key = torch.where(chosen, place * tokens + within, torch.iinfo(torch.int64).max)
    order = key.sort(dim=1, stable=True).indices
    allowed = torch.zeros_like(chosen).scatter(1, order[:, :limit], True)
    return chosen & allowed
