"""Filling the dropped tokens in again: which kept token stands for a dropped one, and what it hands over.

Of stand-ins that are equally similar, one beside the dropped token is taken where the grid is given, else the first.

B samples, H heads, N tokens on a (height, width) grid, K kept, C channels, D head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import check_choice
from ..log_sum_exp import chunk_rows, log_sum_exp
from ..tokens import TokenSubset, gather_tokens, scatter_tokens
from .regression import regress_changes
from .settings import RECOVERIES, Recovery
from .similarity import Directions

_NEIGHBOURS = 4


def stand_in_by_attention(
    subset: TokenSubset, q: Tensor, k: Tensor, row_log_sum: Tensor | None = None, grid: tuple[int, int] | None = None
) -> TokenSubset:
    """Each dropped token's stand-in is the kept token it attends to most (AT-EDM, section 3.2), averaged over heads.

    Queries and keys `[B, H, N, D]` are those of the layer that ranked the tokens, `row_log_sum` `[B, H, N]` is the
    log-sum-exp of every query's logits, where it is known already. Exact; the map is never whole.
    """
    samples, heads, _, head_size = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    row_log_sum = log_sum_exp(q, k) if row_log_sum is None else row_log_sum
    keys = _gather_heads(k, subset.keep_index).to(dtype).transpose(-1, -2)
    queries = _gather_heads(q, subset.drop_index).to(dtype) * head_size**-0.5
    dropped_log_sum = _gather_heads(row_log_sum.unsqueeze(-1), subset.drop_index)

    def attention(part: slice) -> Tensor:
        return (queries[:, :, part] @ keys - dropped_log_sum[:, :, part]).exp().mean(dim=1)

    return _most_similar(attention, subset, samples * heads, grid)


def stand_in_by_cosine(
    subset: TokenSubset, hidden: Tensor | Directions, grid: tuple[int, int] | None = None
) -> TokenSubset:
    """Each dropped token's stand-in is the kept one nearest in angle by the states `[B, N, C]` at the pruning point."""
    states = Directions.of(hidden)
    kept, dropped = states.pick(subset.gather), states.pick(subset.gather_dropped)
    return _most_similar(lambda part: dropped.along(kept, part), subset, len(kept.rows), grid)


def stand_in_by_grid(subset: TokenSubset, grid: tuple[int, int]) -> TokenSubset:
    """Each dropped token's stand-in is the nearest kept token on the grid; equally near ones go to the earlier."""
    return _most_similar(_closeness(subset, grid[1]), subset, len(subset.keep_index))


def recover(
    how: Recovery,
    subset: TokenSubset,
    before: Tensor,
    after: Tensor,
    grid: tuple[int, int] | None = None,
    entered: Tensor | None = None,
    directions: Directions | None = None,
) -> Tensor:
    """The full grid `[B, N, C]` again, after an attention block that was run on the kept tokens.

    Kept tokens have their state at the end, `after` `[B, K, C]`, to rounding at most. Dropped ones get, where
    `before` `[B, N, C]` are the states at the pruning point:

    - `regression`: as `update`, and what the kept tokens show that a state of its own changes (`regression`). The
      `directions` of `before` are made anew where they are not given.
    - `update`: their own state and their stand-in's change since pruning. Where `entered` `[B, K, C]`, means of several
      tokens, went through the layers in the kept ones' place, these too have their own state and that change.
    - `copy` (the paper): their stand-in's state; `zero`: zero.
    - `interpolate`: the mean of the nearest four kept states, weighted by inverse squared distance on the grid (Shepard
      1968), which is what interpolation is on scattered points.

    A ValueError names any other word, and a grid that `interpolate` lacks.
    """
    check_choice("recovery", how, RECOVERIES)
    if how == "copy":
        return subset.expand(after)
    if how == "zero":
        return scatter_tokens(torch.zeros_like(before), subset.keep_index, after)
    if how == "interpolate":
        if grid is None:
            raise ValueError("recovery 'interpolate' needs the grid: give (height, width) in tokens")
        return _interpolate(subset, after, grid)
    entered = subset.gather(before) if entered is None else entered
    change = after - entered
    if how == "regression":
        return regress_changes(subset, before, entered, change, directions)
    return subset.expand(change).add_(before)


def _interpolate(subset: TokenSubset, after: Tensor, grid: tuple[int, int]) -> Tensor:
    closeness = _closeness(subset, grid[1])
    neighbours = min(_NEIGHBOURS, subset.kept)
    full = subset.expand(after)
    found = [closeness(part).topk(neighbours, dim=-1) for part in _chunks(subset, len(after))]
    if not found:
        return full
    # Minus the closeness is the squared distance, never 0 for a dropped token.
    weights = torch.cat([-1.0 / part.values for part in found], dim=1)
    weights = (weights / weights.sum(-1, keepdim=True)).to(after.dtype)
    slots = torch.cat([part.indices for part in found], dim=1)
    rows = gather_tokens(after, slots.flatten(1)).unflatten(1, slots.shape[1:])
    return scatter_tokens(full, subset.drop_index, (rows * weights.unsqueeze(-1)).sum(dim=2))


def _closeness(subset: TokenSubset, width: int) -> Callable[[slice], Tensor]:
    """Minus the squared distance on the grid, exact in float32 up to 4096 x 4096 tokens."""
    kept_y, kept_x = (subset.keep_index // width).float(), (subset.keep_index % width).float()
    dropped_y, dropped_x = (subset.drop_index // width).float(), (subset.drop_index % width).float()

    def closeness(part: slice) -> Tensor:
        y = dropped_y[:, part, None] - kept_y[:, None]
        x = dropped_x[:, part, None] - kept_x[:, None]
        return -(y * y + x * x)

    return closeness


def _chunks(subset: TokenSubset, rows_per_token: int) -> list[slice]:
    """The dropped tokens in parts, for similarities `[rows_per_token, part, K]`."""
    step = chunk_rows(rows_per_token * subset.kept)
    return [slice(start, start + step) for start in range(0, subset.drop_index.shape[1], step)]


def _most_similar(
    similarity: Callable[[slice], Tensor], subset: TokenSubset, rows_per_token: int, grid: tuple[int, int] | None = None
) -> TokenSubset:
    """The subset with the most similar kept tokens as stand-ins, chunked over the dropped tokens."""
    beside = None if grid is None else _slots_beside(subset, grid)
    parts = []
    for part in _chunks(subset, rows_per_token):
        found = similarity(part)
        # On a CPU `max` over rows is several times faster than `argmax`, and both give the first of equals.
        best, slots = found.max(dim=-1)
        if beside is not None:
            near = beside[:, part]
            slots = torch.where(found.gather(2, near.unsqueeze(2)).squeeze(2) == best, near, slots)
        parts.append(slots)
    if len(parts) == 1:
        return subset.with_stand_ins(parts[0])
    return subset.with_stand_ins(torch.cat(parts, dim=1) if parts else subset.drop_index)


def _slots_beside(subset: TokenSubset, grid: tuple[int, int]) -> Tensor:
    """`[B, N - K]`: the slot of a kept token among the eight around each dropped one; 0 where there is none."""
    slots = torch.arange(subset.kept, device=subset.keep_index.device, dtype=torch.float32)
    plane = slots.new_zeros(len(subset.keep_index), subset.total)
    plane.scatter_(1, subset.keep_index, slots.expand_as(subset.keep_index))
    around = torch.nn.functional.max_pool2d(plane.unflatten(1, (1, *grid)), 3, 1, padding=1)
    return around.flatten(1).gather(1, subset.drop_index).long()


def _gather_heads(x: Tensor, index: Tensor) -> Tensor:
    """Rows of `x` `[B, H, N, D]` at `index` `[B, K]`, the same in every head: `[B, H, K, D]`."""
    return x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
