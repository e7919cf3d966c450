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

logger = logging.getLogger(__name__)

RIDGE = 0.1
"""Added to the diagonal, as a share of its mean: pictures depend on it little between 0.01 and 0.3."""
MOST_ROWS = 128
"""Kept tokens that the function is fitted to at most: 32 were as good at 512 px, and the work grows with it."""
_SMALLEST_SPREAD = 1e-6
"""Of directions, squared, times what a token stands for: tokens that differ by less count as alike in float32."""
_TINY = 1e-12
_SMALLEST_CHANGE = 1e-4
"""What changes are measured by at least: float16 holds no much smaller number."""


def fitted_rows(kept: int) -> int:
    """How many of so many kept tokens the function is fitted to: all, or so many evenly spaced in the grid's order."""
    return min(kept, MOST_ROWS)


def regress_changes(subset: TokenSubset, before: Tensor, entered: Tensor, change: Tensor) -> Tensor:
    """All tokens after the block, `[B, N, C]`, from their states `before` it and what the layers changed.

    `entered` `[B, K, C]` are the states that went through them, of kept tokens or of means of groups, and `change`
    `[B, K, C]` what became of them less these. The function is fitted in float32 at least, and applied in the dtype of
    the states.
    """
    dtype = torch.promote_types(before.dtype, torch.float32)
    directions, entered = _directions(before, dtype), _directions(entered, dtype)
    apart = directions.sub_(subset.expand(entered))
    weight, rows, wanted = (_fitted(one) for one in (subset.members.to(dtype).unsqueeze(-1), entered, change))
    rows, wanted = _centred(rows, weight), _centred(wanted.to(dtype), weight)
    # Both to a size of about one, which half precision holds; each counts for the tokens that it stands for.
    scale = wanted.abs().amax(dim=(1, 2), keepdim=True).clamp(_SMALLEST_CHANGE, torch.finfo(before.dtype).max)
    lengths = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    spread = (lengths.square() * weight).mean(dim=1, keepdim=True).clamp_min(_SMALLEST_SPREAD)
    known = lengths.amax(dim=1, keepdim=True)
    # No further from its stand-in than any kept token is from their mean: beyond, the function was never seen.
    within = (known / torch.linalg.vector_norm(apart, dim=2, keepdim=True).clamp_min(_TINY)).clamp_max(1.0)
    apart, rows = apart * (within / spread.sqrt()), rows * (weight / spread).sqrt()
    ridge = RIDGE * torch.eye(rows.shape[1], dtype=dtype, device=rows.device)
    solved = _solve(torch.bmm(rows, rows.transpose(1, 2)) + ridge, wanted * (weight.sqrt() / scale))
    products = _dtype_of_products(before)
    # Over the kept tokens first: the C x C matrix of the function would cost more than both products.
    alike = torch.bmm(apart.to(products), rows.transpose(1, 2).to(products))
    differs = torch.bmm(alike, solved.to(products)).to(before.dtype)
    return subset.expand(change).add_(before).addcmul_(differs, scale.to(before.dtype))


def _directions(states: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.nn.functional.normalize(states.to(dtype), dim=-1)


def _fitted(kept: Tensor) -> Tensor:
    """Of rows `[B, K, C]` those that the function is fitted to, `[B, R, C]`."""
    tokens = kept.shape[1]
    rows = fitted_rows(tokens)
    if rows == tokens:
        return kept
    return kept[:, torch.arange(rows, device=kept.device) * tokens // rows]


def _centred(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows `[B, R, C]` less their mean by weights `[B, R, 1]`."""
    return rows - (rows * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)


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


def _dtype_of_products(states: Tensor) -> torch.dtype:
    """The states' own, but where a processor would multiply float16 element by element."""
    slow = states.device.type == "cpu" and states.dtype == torch.float16
    return torch.float32 if slow else states.dtype
