"""Which tokens stay, and which kept token stands for each dropped one: two index tensors, one gather each way.

B samples, N tokens on the full grid, K kept tokens, C channels; indices are int64. Of `scores` higher is better.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSubset:
    """K of N tokens, the same number in every sample: positions `keep_index` `[B, K]`, ascending.

    So are those of the dropped ones, `drop_index` `[B, N - K]`. `stand_ins` `[B, N - K]` in [0, K) are the slots of the
    kept tokens that stand for these; `None` for the nearest kept one in grid order.
    """

    keep_index: Tensor
    drop_index: Tensor
    stand_ins: Tensor | None = None

    @property
    def kept(self) -> int:
        """K, the tokens that stay."""
        return self.keep_index.shape[1]

    @property
    def total(self) -> int:
        """N, the tokens of the full grid."""
        return self.keep_index.shape[1] + self.drop_index.shape[1]

    @cached_property
    def source_index(self) -> Tensor:
        """`[B, N]` in [0, K): for every position the slot of its stand-in; kept tokens point to their own."""
        positions = torch.arange(self.total, device=self.keep_index.device).expand(len(self.keep_index), -1)
        if self.stand_ins is not None:
            source = positions.scatter(1, self.keep_index, positions[:, : self.kept])
            return source.scatter_(1, self.drop_index, self.stand_ins)
        after = torch.searchsorted(self.keep_index, positions.contiguous()).clamp_max(self.kept - 1)
        before = (after - 1).clamp_min(0)
        gap_after = (self.keep_index.gather(1, after) - positions).abs()
        gap_before = (self.keep_index.gather(1, before) - positions).abs()
        # The earlier one where two are equally near.
        return torch.where(gap_after < gap_before, after, before)

    @cached_property
    def members(self) -> Tensor:
        """`[B, K]` float32: how many tokens each kept one stands for, itself included."""
        ones = torch.ones(len(self.keep_index), self.total, dtype=torch.float32, device=self.keep_index.device)
        return ones[:, : self.kept].scatter_add_(1, self._slots_of_dropped, ones[:, self.kept :])

    @classmethod
    def top(cls, scores: Tensor, keep: int, order: EvenOrder | None = None) -> TokenSubset:
        """The `keep` (1 to N) best tokens of each sample by `scores` `[B, N]`.

        Equal scores come in the grid's `order`; without it they go to the earlier position. A ValueError names scores
        of another shape and a number outside its range.
        """
        _check_scores(scores, keep)
        return cls.from_order(best_first(scores, order), keep)

    @classmethod
    def stratified(
        cls, scores: Tensor, keep: int, grid: tuple[int, int], cell: int = 2, order: EvenOrder | None = None
    ) -> TokenSubset:
        """Coverage first, importance second: the best token of every cell, then the rest by global rank.

        Plain top-k piles the kept tokens up where attention piles up, and a dropped token then has no good stand-in.
        Where `keep` is less than the number of cells, the best of the cells' best tokens stay. `grid` is (height,
        width) in tokens, its `order` is made anew where it is not given. `cell` is the edge of a square cell in tokens;
        those at the right and lower edge may be smaller. A ValueError names what does not fit, as in `top`.
        """
        tokens = scores.shape[-1]
        if grid[0] * grid[1] != tokens or cell < 1:
            raise ValueError(
                f"grid {grid[0]} x {grid[1]} with cells of {cell} does not fit {tokens} tokens: "
                "height * width must be the number of tokens, and a cell's edge 1 or more"
            )
        _check_scores(scores, keep)
        preferred = best_first(scores, order or EvenOrder.of(grid, scores.device))
        positions = torch.arange(tokens, device=scores.device).expand_as(preferred)
        ranks = torch.empty_like(preferred).scatter_(1, preferred, positions)
        # Max pooling is the search for the best of every cell in one kernel, and tells where it was found. Ranks are
        # exact in float32 up to 4096 x 4096 tokens.
        planes = -ranks.float().unflatten(1, (1, *grid))
        _, winners = torch.nn.functional.max_pool2d(planes, cell, cell, ceil_mode=True, return_indices=True)
        winners = winners.flatten(1)
        return cls.from_order(ranks.scatter_add(1, winners, torch.full_like(winners, -tokens)).argsort(dim=1), keep)

    @classmethod
    def from_order(cls, order: Tensor, keep: int) -> TokenSubset:
        """From positions `[B, N]` in order of preference: the first `keep` stay."""
        return cls(order[:, :keep].sort(dim=1).values, order[:, keep:].sort(dim=1).values)

    @classmethod
    def join(cls, subsets: list[TokenSubset]) -> TokenSubset:
        """Subsets of as many kept and dropped tokens, as one batch in their order; all or none have stand-ins."""
        if len(subsets) == 1:
            return subsets[0]
        slots = [subset.stand_ins for subset in subsets if subset.stand_ins is not None]
        keep = torch.cat([subset.keep_index for subset in subsets])
        return cls(keep, torch.cat([subset.drop_index for subset in subsets]), torch.cat(slots) if slots else None)

    def split(self, parts: int) -> list[TokenSubset]:
        """One batch as `parts` equal ones, in order."""
        keep, drop = self.keep_index.chunk(parts), self.drop_index.chunk(parts)
        slots = [None] * parts if self.stand_ins is None else self.stand_ins.chunk(parts)
        return [TokenSubset(*part) for part in zip(keep, drop, slots, strict=True)]

    def with_stand_ins(self, slots: Tensor) -> TokenSubset:
        """The same tokens with these stand-ins, `[B, N - K]` in [0, K)."""
        made = replace(self, stand_ins=slots)
        # What was computed of the tokens themselves still holds; each tensor is a kernel to launch.
        vars(made).update({name: vars(self)[name] for name in ("_kept_rows", "_dropped_rows") if name in vars(self)})
        return made

    def gather(self, x: Tensor) -> Tensor:
        """The kept tokens of `x`: `[B, N, C]` -> `[B, K, C]`."""
        if x.shape[:2] != (len(self.keep_index), self.total):
            return gather_tokens(x, self.keep_index)
        return _select(x, self._kept_rows)

    def gather_dropped(self, x: Tensor) -> Tensor:
        """The dropped tokens of `x`: `[B, N, C]` -> `[B, N - K, C]`."""
        if x.shape[:2] != (len(self.keep_index), self.total):
            return gather_tokens(x, self.drop_index)
        return _select(x, self._dropped_rows)

    def mean(self, x: Tensor) -> Tensor:
        """Of `x` `[B, N, C]`, for each kept token the mean over those that it stands for: `[B, K, C]`.

        Summed in float32 at least, in an order that is the same every time.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        total = add_tokens(self.gather(x).to(dtype), self._slots_of_dropped, self.gather_dropped(x))
        return (total / self.members.unsqueeze(-1)).to(x.dtype)

    @property
    def _slots_of_dropped(self) -> Tensor:
        return self.source_index.gather(1, self.drop_index) if self.stand_ins is None else self.stand_ins

    def expand(self, y: Tensor) -> Tensor:
        """Every position gets its stand-in's row of `y`: `[B, K, C]` -> `[B, N, C]`."""
        if y.shape[:2] != self.keep_index.shape:
            return gather_tokens(y, self.source_index)
        return _select(y, self._source_rows)

    @cached_property
    def _kept_rows(self) -> Tensor:
        return _row_numbers(self.keep_index, len(self.keep_index), self.total)

    @cached_property
    def _dropped_rows(self) -> Tensor:
        return _row_numbers(self.drop_index, len(self.drop_index), self.total)

    @cached_property
    def _source_rows(self) -> Tensor:
        return _row_numbers(self.source_index, len(self.keep_index), self.kept)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Rows of `x` `[B, N, C]` at `index` `[B, K]`, per sample, or `[1, K]`, the same in each: `[B, K, C]`."""
    samples, tokens, _ = x.shape
    return _select(x, _row_numbers(index, samples, tokens))


def _row_numbers(index: Tensor, samples: int, tokens: int) -> Tensor:
    """Positions `[B, K]` or `[1, K]` of `tokens` in each of B samples, as positions `[B, K]` in all samples' rows."""
    if samples == 1:
        return index
    return index + torch.arange(0, samples * tokens, tokens, device=index.device).unsqueeze(1)


def _select(x: Tensor, rows: Tensor) -> Tensor:
    """Of `x` `[B, N, C]` the rows that `_row_numbers` `[B, K]` name: `[B, K, C]`."""
    # Selecting from the flattened rows copies whole rows, where `torch.gather` needs an index per element.
    return x.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)


def scatter_tokens(x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """`x` `[B, N, C]` with its rows at `index` `[B, K]` replaced by `rows` `[B, K, C]`."""
    return x.scatter(1, index.unsqueeze(-1).expand_as(rows), rows)


def add_tokens(x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """`x` `[B, K, C]`, written to, with `rows` `[B, M, C]` added at `index` `[B, M]`, which may repeat."""
    rows = rows.to(x.dtype)
    if x.device.type != "cuda":
        return x.scatter_add_(1, index.unsqueeze(-1).expand_as(rows), rows)
    # There `scatter_add` adds in any order, and this one sorts first.
    samples, kept, channels = x.shape
    flat = _row_numbers(index, samples, kept)
    x.view(-1, channels).index_put_((flat.flatten(),), rows.reshape(-1, channels), accumulate=True)
    return x


@dataclass(frozen=True)
class EvenOrder:
    """An order of a grid's tokens of which the first n lie evenly over the grid for every n.

    It is that of Bayer's threshold matrix (Bayer 1973): the first half of the positions is a checkerboard, the first
    quarter a square lattice, and so on. It depends on the grid alone, so a run makes it once per grid and device.
    `positions` `[N]` are in that order; `scores` `[N]` float32 in (0, 1] all differ, up to 4096 x 4096 tokens.
    """

    scores: Tensor
    positions: Tensor

    @classmethod
    # Whoever makes it may be in inference mode, and whoever uses it later may not.
    @torch.inference_mode(False)
    def of(cls, grid: tuple[int, int], device: torch.device | None = None) -> EvenOrder:
        """The order of a (height, width) grid: of 2 x 4 tokens the positions are 0, 2, 5, 7, 1, 3, 4, 6."""
        height, width = grid
        bits = max(1, (max(grid) - 1).bit_length())
        y = torch.arange(height, device=device).unsqueeze(1)
        x = torch.arange(width, device=device).unsqueeze(0)
        threshold = torch.zeros(height, width, dtype=torch.int64, device=device)
        for bit in range(bits):
            # The lowest bit of a position decides most, so neighbours are far apart in the order.
            threshold = 4 * threshold + 2 * (((x ^ y) >> bit) & 1) + ((y >> bit) & 1)
        threshold = threshold.flatten()
        return cls(1.0 - threshold.float() / 4**bits, threshold.argsort())


def kept_tokens(tokens: int, ratio: float) -> int:
    """How many of `tokens` stay at a prune ratio in [0, 1), else a ValueError: the nearest whole number, at least 1."""
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"ratio is {ratio}: give the share of tokens to drop, 0 or more and less than 1")
    return max(1, round(tokens * (1.0 - ratio)))


def best_first(scores: Tensor, order: EvenOrder | None, *, lowest: bool = False) -> Tensor:
    """`[B, N]`, positions by descending score `[B, N]`; equal ones in the grid's `order`, or the earlier one first.

    With `lowest` by ascending score.
    """
    if order is None:
        return scores.sort(dim=1, descending=not lowest, stable=True).indices
    return order.positions[scores[:, order.positions].sort(dim=1, descending=not lowest, stable=True).indices]


def _check_scores(scores: Tensor, keep: int) -> None:
    if scores.ndim != 2 or not 1 <= keep <= scores.shape[1]:
        raise ValueError(
            f"cannot keep {keep} tokens by scores of shape {tuple(scores.shape)}: "
            "scores are [samples, tokens], and 1 to all tokens can stay"
        )
