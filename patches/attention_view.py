"""Sees the queries and keys of one attention layer while the host runs it, without changing what it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..atedm_core.pruning import QueriesKeys
from .full_grid import Options, append_patch


class AttentionView:
    """Queries and keys of one layer's self- and cross-attention, as `[B, H, N, D]`.

    They are those the host's attention was called with. Where a foreign patch has folded, replaced or multiplied
    tokens (ToMe, HyperTile, PAG), what was seen is no longer the grid's, and they are projected afresh.
    """

    def __init__(self, layer: Any, hidden: Tensor, context: Tensor | None, cross: bool) -> None:
        self._layer = layer
        self._hidden = hidden
        self._context = context
        self._wants_cross = cross
        self._after_self: Tensor | None = None
        self._seen: dict[str, QueriesKeys] = {}

    def watch(self, options: Options) -> Options:
        """Options with which the layer runs as it would, while its attention calls are seen."""
        previous = options.get("optimized_attention_override")

        def see(attention: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            if len(args) >= 2:
                self._see(args[0], args[1])
            return attention(*args, **kwargs) if previous is None else previous(attention, *args, **kwargs)

        return append_patch({**options, "optimized_attention_override": see}, "middle_patch", self._pass_middle)

    def self_attention(self) -> QueriesKeys:
        """Queries and keys of the self-attention, `[B, H, N, D]` each."""
        if "self" in self._seen:
            return self._seen["self"]
        attention, hidden = self._layer.attn1, self._layer.norm1(self._hidden)
        return self._split(attention.to_q(hidden)), self._split(attention.to_k(hidden))

    def cross_attention(self) -> QueriesKeys:
        """Queries `[B, H, N, D]` and keys `[B, H, M, D]` of the cross-attention."""
        if "cross" in self._seen:
            return self._seen["cross"]
        attention, hidden = self._layer.attn2, self._layer.norm2(self._after_self)
        return self._split(attention.to_q(hidden)), self._split(attention.to_k(self._context))

    def _pass_middle(self, hidden: Tensor, extra_options: Options) -> Tensor:
        self._after_self = hidden
        return hidden

    def _see(self, queries: Tensor, keys: Tensor) -> None:
        kind = "self" if self._after_self is None else "cross"
        if kind in self._seen or (kind == "cross" and not self._wants_cross):
            return
        grid = (*self._hidden.shape[:2], self._layer.n_heads * self._layer.d_head)
        whole = queries.shape == grid and (kind == "cross" or keys.shape == grid)
        if whole and keys.shape[0] == grid[0]:
            self._seen[kind] = self._split(queries), self._split(keys)

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self._layer.n_heads, self._layer.d_head)).transpose(1, 2)
