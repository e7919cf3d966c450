"""Generalized Weighted Page Rank (G-WPR) over attention, computed without the attention map.

AT-EDM (Wang et al., CVPR 2024, section 3.2) reads the attention map A of a layer as a directed graph in which every
token votes for the tokens it attends to, weighted by its own importance. As fused attention computes the log-sum-exp
`lse_i = log sum_j exp(q_i.k_j / sqrt(D))` of every query anyway, and

    (A^T s)_j = sum_i s_i exp(q_i.k_j / sqrt(D) - lse_i),

so the logarithm of one iteration is the log-sum-exp of one fused attention call with swapped roles: keys ask,
queries answer, and answer i carries the bias `log s_i - lse_i`. Everything stays in the log domain, so logits in the
hundreds neither overflow nor vanish.

B samples, H heads, N tokens (M queries and N keys for cross-attention), D head size. Scores are float32 (float64 for
float64 inputs), and those of each head sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_shape
from ..log_sum_exp import log_sum_exp


class Lattice(NamedTuple):
    """Every `stride`-th token in both directions of a (height, width) grid."""

    grid: tuple[int, int]
    stride: int


def lattice_voters(grid: tuple[int, int], at_most: int) -> Lattice:
    """About `at_most` tokens, by the smallest stride whose square times `at_most` covers the grid: 4 for 256 of 64²."""
    return Lattice(grid, max(1, math.ceil(math.sqrt(grid[0] * grid[1] / at_most))))


def gwpr(
    q: Tensor,
    k: Tensor,
    *,
    start: Tensor | None = None,
    iterations: int = 1,
    row_log_sum: Tensor | None = None,
    voters: Lattice | None = None,
) -> Tensor:
    """G-WPR scores `[B, H, N]` of self-attention tokens, per head: `s <- A^T s` from the uniform vector.

    A is row-stochastic, so this is power iteration toward its stationary distribution. Queries and keys are
    `[B, H, N, D]` of one float dtype. A ValueError names shapes that do not fit, and iterations under 1.

    Args:
        start: scores `[B, H, N]` to start from (a warm start), non-negative; uniform when `None`.
        iterations: 1 or more.
        row_log_sum: `[B, H, N]` float32, the log-sum-exp of every query's logits, where the layer's own attention
            gave it; it saves one of the two attention calls that a ranking takes.
        voters: the queries that vote, the same in every head; all when `None`. The cost falls with their number.
    """
    if q.shape != k.shape:
        raise ValueError(
            f"queries {tuple(q.shape)} and keys {tuple(k.shape)} differ: self-attention ranks the tokens it asks with; "
            "use cross_gwpr where queries and keys are different tokens"
        )
    if row_log_sum is not None:
        check_shape("row_log_sum", row_log_sum.shape, q.shape[:-1], "query")
    asking = _voting(q, voters)
    asking_log_sum = log_sum_exp(asking, k) if row_log_sum is None else _voting(row_log_sum, voters)

    def advance(log_scores: Tensor) -> Tensor:
        votes = log_scores if voters is None else _log_normalize(_voting(log_scores, voters))
        return log_sum_exp(k, asking, votes - asking_log_sum)

    return _iterate(advance, start, q, iterations)


def cross_gwpr(q: Tensor, k: Tensor, *, start: Tensor | None = None, iterations: int = 1) -> Tensor:
    """G-WPR scores `[B, H, M]` of the queries of a cross-attention map: `s_K = A^T s_Q`, then `s_Q = A s_K`.

    The generalized form on the bipartite graph of queries `[B, H, M, D]` and keys `[B, H, N, D]`, normalised; the
    other arguments and errors are those of `gwpr`.
    """
    row_log_sum = log_sum_exp(q, k)

    def advance(log_scores: Tensor) -> Tensor:
        log_key_scores = log_sum_exp(k, q, log_scores - row_log_sum)
        return _log_normalize(log_sum_exp(q, k, log_key_scores) - row_log_sum)

    return _iterate(advance, start, q, iterations)


def combine_heads(per_head: Tensor) -> Tensor:
    """`[B, H, N]` -> `[B, N]`: the root mean square over heads, so that a head which is sure of a token is heard."""
    return per_head.square().mean(dim=1).sqrt()


def _iterate(advance: Callable[[Tensor], Tensor], start: Tensor | None, q: Tensor, iterations: int) -> Tensor:
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}: one or more are needed to rank tokens")
    shape, dtype = q.shape[:-1], torch.promote_types(q.dtype, torch.float32)
    if start is None:
        log_scores = torch.full(shape, -math.log(shape[-1]), dtype=dtype, device=q.device)
    else:
        check_shape("start", start.shape, shape, "head and token")
        # The smallest normal number stands for zero: its logarithm is finite, which a fused call's bias has to be.
        log_scores = _log_normalize(start.to(dtype).clamp_min(torch.finfo(dtype).tiny).log())
    for _ in range(iterations):
        log_scores = advance(log_scores)
    # Rounding moves the sum by parts in a million per iteration; the result is a distribution exactly.
    return _log_normalize(log_scores).exp()


def _voting(x: Tensor, voters: Lattice | None) -> Tensor:
    """The voters of `x` `[B, H, N, ...]`."""
    if voters is None:
        return x
    return x.unflatten(2, voters.grid)[:, :, :: voters.stride, :: voters.stride].flatten(2, 3)


def _log_normalize(log_scores: Tensor) -> Tensor:
    return log_scores - log_scores.logsumexp(dim=-1, keepdim=True)
