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

import torch
from torch import Tensor

from ..tokens import TokenSubset

RIDGE = 0.1
"""Added to the diagonal, as a share of its mean: pictures depend on it little between 0.03 and 0.3."""
MOST_ROWS = 128
"""Kept tokens that the function is fitted to at most: pictures hardly depend on it, and the work grows with it."""
_SMALLEST_SPREAD = 1e-6
"""Of directions, squared: tokens that differ by less differ by rounding."""
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
    scale = wanted.abs().amax(dim=(1, 2), keepdim=True).clamp_min(_SMALLEST_CHANGE)
    rows, wanted = rows.mul_(weight.sqrt()), wanted.mul_(weight.sqrt() / scale)
    spread = rows.square().sum(dim=2, keepdim=True).mean(dim=1, keepdim=True).clamp_min(_SMALLEST_SPREAD).sqrt()
    rows, apart = rows.div_(spread), apart.div_(spread)
    ridge = RIDGE * torch.eye(rows.shape[1], dtype=dtype, device=rows.device)
    solved = _solve(torch.bmm(rows, rows.transpose(1, 2)) + ridge, wanted)
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
    """`matrix^-1 @ right` for positive definite `[B, R, R]` and `[B, R, C]`."""
    if not _has_cholesky(matrix.device, matrix.dtype):
        return _by_cholesky(matrix.cpu(), right.cpu()).to(right.device)
    return _by_cholesky(matrix, right)


def _by_cholesky(matrix: Tensor, right: Tensor) -> Tensor:
    # Unlike `cholesky` it raises nothing for states that are not finite, which would have the device wait.
    factor, _ = torch.linalg.cholesky_ex(matrix)
    return torch.cholesky_solve(right, factor)


@functools.cache
def _has_cholesky(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device factors matrices itself; tried once."""
    one = torch.eye(2, dtype=dtype, device=device).unsqueeze(0)
    try:
        _by_cholesky(one, one)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    return True


def _dtype_of_products(states: Tensor) -> torch.dtype:
    """The states' own, but where a processor would multiply float16 element by element."""
    slow = states.device.type == "cpu" and states.dtype == torch.float16
    return torch.float32 if slow else states.dtype
