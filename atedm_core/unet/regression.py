"""Filling dropped tokens in by what the kept ones show: how the change through a block follows from a token's state.

A dropped token that takes its stand-in's change as it is takes none of what its own state would have changed in it. But
over the kept tokens both are known, the states that went in and how they changed, and between tokens of one picture
the change is nearly a linear function of the state's direction. So that function is fitted to the kept tokens, and a
dropped one gets its stand-in's change and the fitted function of how it differs from what went through the layers in
its place. This is ridge regression in its dual form (Saunders, Gammerman and Vovk 1998), whose cost grows with the
number of kept tokens and not with the number of channels. `docs/fidelity.md` has what it is worth.

B samples, N tokens, K kept, C channels, R <= K of the kept tokens that the function is fitted to.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from ..tokens import TokenSubset
from .similarity import Directions

logger = logging.getLogger(__name__)

RIDGE = 0.1
"""Added to the diagonal, as a share of its mean: pictures depend on it little between 0.01 and 0.3."""
MOST_ROWS = 128
"""Kept tokens that the function is fitted to at most: 32 were as good at 512 px, and the work grows with it."""
_SMALLEST_SPREAD = 1e-6
"""Of directions, squared, times what a token stands for: tokens that differ by less count as alike in float32."""
_TINY = 1e-12


def fitted_rows(kept: int) -> int:
    """How many of so many kept tokens the function is fitted to at most.

    It is fitted to every one, every second, every third, ..., so to more than half as many at least. What it costs is
    told by the most, so that it never costs more to keep fewer tokens.
    """
    return min(kept, MOST_ROWS)


def _stride(kept: int) -> int:
    return -(-kept // MOST_ROWS)


def regress_changes(
    subset: TokenSubset, before: Tensor, entered: Tensor, change: Tensor, directions: Directions | None = None
) -> Tensor:
    """All tokens after the block, `[B, N, C]`, from their states `before` it and what the layers changed.

    `entered` `[B, K, C]` are the states that went through them, of kept tokens or of means of groups, and `change`
    `[B, K, C]` what became of them less these. Computed in float32 at least, and rounded once to the states' dtype. The
    `directions` of `before` are made anew where they are not given.
    """
    dtype = torch.promote_types(before.dtype, torch.float32)
    unit, went_in = Directions.of(before if directions is None else directions).unit, Directions.of(entered).unit
    apart = unit - subset.expand(went_in)
    some = slice(None, None, _stride(subset.kept))
    weight = subset.members.to(dtype)[:, some, None]
    share = weight / weight.sum(dim=1, keepdim=True)
    rows, wanted = (every - (every * share).sum(dim=1, keepdim=True) for every in (went_in[:, some], change[:, some]))
    known = torch.linalg.vector_norm(rows, dim=2, keepdim=True).amax(dim=1, keepdim=True).clamp_min(_TINY)
    # Each counts for the tokens that it stands for; all together to a size of one, so that the ridge is in proportion.
    root, count = weight.sqrt(), rows.shape[1]
    rows = rows * root
    size = torch.linalg.vector_norm(rows, dim=(1, 2), keepdim=True).clamp_min((count * _SMALLEST_SPREAD) ** 0.5)
    rows = rows / size
    matrix = torch.bmm(rows, rows.transpose(1, 2))
    matrix.diagonal(dim1=1, dim2=2).add_(RIDGE / count)
    solved = _solve(matrix, wanted * (root / size))
    # No further from its stand-in than any kept token is from their mean: beyond, the function was never seen.
    apart = apart * (known / torch.linalg.vector_norm(apart, dim=2, keepdim=True).clamp_min(_TINY)).clamp_max(1.0)
    # Over the kept tokens first: the C x C matrix of the function would cost more than both products.
    differs = torch.bmm(torch.bmm(apart, rows.transpose(1, 2)), solved)
    return differs.add_(before).add_(subset.expand(change)).to(before.dtype)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """`matrix^-1 @ right` for positive definite `[B, R, R]` and `[B, R, C]`, by Cholesky's factor."""
    try:
        return _by_cholesky(matrix, right)
    except RuntimeError:  # a device without it (NotImplementedError is one), or without memory for it
        if matrix.device.type in ("cpu", "meta"):
            raise
        _tell_once(matrix.device.type)
        return _by_cholesky(matrix.cpu(), right.cpu()).to(right.device)


def _by_cholesky(matrix: Tensor, right: Tensor) -> Tensor:
    # `cholesky` and `cholesky_solve` would have the device wait: to raise what is not finite, and for a batch.
    factor, _ = torch.linalg.cholesky_ex(matrix)
    half_way = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half_way, upper=True)


@functools.cache
def _tell_once(device: str) -> None:
    logger.info("the processor fits the function that fills in dropped tokens: %s cannot", device)
