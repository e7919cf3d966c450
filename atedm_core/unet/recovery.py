"""Filling the dropped tokens in again: which kept token stands for a dropped one, and what it hands over.

Stand-ins: by attention (AT-EDM, section 3.2, similarity-based copy), by cosine similarity of hidden states, or by
nearness on the grid. Where several are equally similar, one beside the dropped token is taken. What is handed over: the
stand-in's change since pruning (`update`), its whole state (`copy`, the paper), nothing (`zero`), or a blend of the
nearest kept states (`interpolate`). What needs a memory of earlier noise levels (`temporal`) is in `temporal`.

B samples, H heads, N tokens on the full grid, K kept, C channels, D head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..log_sum_exp import CHUNK_LOGITS, compute_dtype, log_sum_exp
from ..tokens import TokenSubset, gather_tokens
from .settings import RECOVERIES, Recovery
from .similarity import along_each

_NEIGHBOURS = 4


def stand_in_by_attention(
    subset: TokenSubset,
    q: Tensor,
    k: Tensor,
    row_log_sum: Tensor | None = None,
    grid: tuple[int, int] | None = None,
) -> TokenSubset:
    """Each dropped token's stand-in is the kept token it attends to most, attention averaged over heads.

    The paper's choice. Exact, chunked over the dropped tokens; the map is never whole.

    Args:
        subset: of N tokens.
        q: queries `[B, H, N, D]` of the layer that ranked the tokens.
        k: keys `[B, H, N, D]`.
        row_log_sum: `[B, H, N]`, the log-sum-exp of every query's logits, where it is known already.
        grid: (height, width) in tokens, to choose between equals.
    """
    samples, heads, _, head_size = q.shape
    dtype = compute_dtype(q.dtype)
    row_log_sum = log_sum_exp(q, k) if row_log_sum is None else row_log_sum
    keys = _gather_heads(k, subset.keep_index).to(dtype).transpose(-1, -2)
    queries = _gather_heads(q, subset.drop_index).to(dtype) * head_size**-0.5
    dropped_log_sum = row_log_sum.gather(2, subset.drop_index.unsqueeze(1).expand(-1, heads, -1))

    def attention(start: int, stop: int) -> Tensor:
        logits = queries[:, :, start:stop] @ keys
        return (logits - dropped_log_sum[:, :, start:stop].unsqueeze(-1)).exp().mean(dim=1)

    return subset.with_stand_ins(_best_slots(attention, subset, samples * heads, grid))


def stand_in_by_cosine(subset: TokenSubset, hidden: Tensor, grid: tuple[int, int] | None = None) -> TokenSubset:
    """Each dropped token's stand-in is the kept token whose hidden state points the same way the most.

    Args:
        subset: of N tokens.
        hidden: states `[B, N, C]` at the pruning point.
        grid: (height, width) in tokens, to choose between equals.
    """
    # A dropped token's own length does not change which kept token is nearest in angle.
    along = along_each(subset.gather(hidden))
    dropped = gather_tokens(hidden, subset.drop_index)

    def cosine(start: int, stop: int) -> Tensor:
        return along(dropped[:, start:stop])

    return subset.with_stand_ins(_best_slots(cosine, subset, hidden.shape[0], grid))


def stand_in_by_grid(subset: TokenSubset, grid: tuple[int, int]) -> TokenSubset:
    """Each dropped token's stand-in is the nearest kept token on the grid; equally near ones go to the earlier.

    Args:
        subset: of N = height * width tokens.
        grid: (height, width) in tokens.
    """
    closeness = _closeness(subset, grid[1])
    return subset.with_stand_ins(_best_slots(closeness, subset, subset.keep_index.shape[0]))


def recover(
    how: Recovery, subset: TokenSubset, before: Tensor, after: Tensor, grid: tuple[int, int] | None = None
) -> Tensor:
    """The full grid again, from the kept tokens' states at the end of the attention block.

    Args:
        how: `update`: a dropped token keeps its own state and adds its stand-in's change since pruning; `temporal` is
            the same for tokens of which nothing is remembered (`temporal.recover_with_own` is for the others);
            `copy` (the paper): it takes its stand-in's state; `zero`: it becomes zero;
            `interpolate`: it becomes the mean of the nearest four kept states, weighted by inverse squared distance
            on the grid (Shepard 1968), which is what interpolation is on scattered points.
        subset: of N tokens.
        before: `[B, N, C]`, all states at the pruning point.
        after: `[B, K, C]`, the kept tokens' states at the end.
        grid: (height, width) in tokens, needed by `interpolate`.

    Returns:
        `[B, N, C]`. Kept tokens have their own state at the end (with `update` to rounding).

    Raises:
        ValueError: `how` is none of the five, or `interpolate` is given no grid.
    """
    if how in ("update", "temporal"):
        return subset.expand(after - subset.gather(before)).add_(before)
    if how == "copy":
        return subset.expand(after)
    if how == "zero":
        index = subset.keep_index.unsqueeze(-1).expand(-1, -1, after.shape[-1])
        return torch.zeros_like(before).scatter(1, index, after)
    if how == "interpolate":
        if grid is None:
            raise ValueError("recovery 'interpolate' needs the grid: give (height, width) in tokens")
        return _interpolate(subset, after, grid)
    raise ValueError(f"recovery is {how!r}: choose one of {', '.join(RECOVERIES)}")


def _interpolate(subset: TokenSubset, after: Tensor, grid: tuple[int, int]) -> Tensor:
    closeness = _closeness(subset, grid[1])
    neighbours = min(_NEIGHBOURS, subset.kept)
    dropped = subset.drop_index.shape[1]
    full = subset.expand(after)
    if dropped == 0:
        return full
    found = [closeness(a, b).topk(neighbours, dim=-1) for a, b in _chunks(subset, after.shape[0])]
    # Minus the closeness is the squared distance, never 0 for a dropped token.
    weights = torch.cat([-1.0 / part.values for part in found], dim=1)
    weights = (weights / weights.sum(-1, keepdim=True)).to(after.dtype)
    slots = torch.cat([part.indices for part in found], dim=1)
    rows = gather_tokens(after, slots.flatten(1)).unflatten(1, (dropped, neighbours))
    blended = (rows * weights.unsqueeze(-1)).sum(dim=2)
    return full.scatter(1, subset.drop_index.unsqueeze(-1).expand(-1, -1, after.shape[-1]), blended)


def _closeness(subset: TokenSubset, width: int) -> Callable[[int, int], Tensor]:
    """Minus the squared distance on the grid, exact in float32 up to 4096 x 4096 tokens."""

    def coordinates(index: Tensor) -> tuple[Tensor, Tensor]:
        return (index // width).float(), (index % width).float()

    kept_y, kept_x = coordinates(subset.keep_index)
    dropped_y, dropped_x = coordinates(subset.drop_index)

    def closeness(start: int, stop: int) -> Tensor:
        y = dropped_y[:, start:stop, None] - kept_y[:, None]
        x = dropped_x[:, start:stop, None] - kept_x[:, None]
        return -(y * y + x * x)

    return closeness


def _chunks(subset: TokenSubset, rows_per_token: int) -> list[tuple[int, int]]:
    step = max(1, CHUNK_LOGITS // max(1, rows_per_token * subset.kept))
    dropped = subset.drop_index.shape[1]
    return [(start, min(start + step, dropped)) for start in range(0, dropped, step)]


def _best_slots(
    similarity: Callable[[int, int], Tensor],
    subset: TokenSubset,
    rows_per_token: int,
    grid: tuple[int, int] | None = None,
) -> Tensor:
    """`[B, N - K]`: the slot of the most similar kept token, chunked over the dropped tokens.

    Of equals the one beside the dropped token where the grid is given, else the first.
    """
    beside = None if grid is None else _slots_beside(subset, grid)
    parts = []
    for start, stop in _chunks(subset, rows_per_token):
        found = similarity(start, stop)
        # On a CPU `max` over rows is several times faster than `argmax`, and both give the first of equals.
        best, slots = found.max(dim=-1)
        if beside is not None:
            near = beside[:, start:stop]
            slots = torch.where(found.gather(2, near.unsqueeze(2)).squeeze(2) == best, near, slots)
        parts.append(slots)
    return torch.cat(parts, dim=1) if parts else subset.drop_index


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
