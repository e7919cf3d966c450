"""Sees the queries and keys of one attention layer while the host runs it, without changing what it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor

from ...atedm_core.log_sum_exp import attention_with_log_sum_exp
from ...atedm_core.unet.ranking import LayerAttention, QueriesKeys
from .full_grid import Options, append_patch

_PYTORCH_ATTENTION = (attention_pytorch, inspect.unwrap(attention_pytorch))
"""ComfyUI's function as nodes find it, and as it is handed to overrides: out of its wrapper."""


class AttentionView:
    """Queries and keys of one layer's self- and cross-attention, as `[B, H, N, D]`.

    They are those the host's attention was called with. Where a foreign patch has folded, replaced or multiplied
    tokens (ToMe, HyperTile, PAG), what was seen is no longer the grid's, and they are projected afresh.
    """

    def __init__(self, layer: Any, hidden: Tensor, context: Tensor | None, cross: bool) -> None:
        self._layer, self._hidden, self._context = layer, hidden, context
        self._wants_cross = cross
        self._past_self = False
        self._after_self: Tensor | None = None
        self._self: QueriesKeys | None = None
        self._row_log_sum: Tensor | None = None
        self._cross: QueriesKeys | None = None

    def watch(self, options: Options) -> Options:
        """Options with which the layer runs as it would, while its attention calls are seen."""
        previous = options.get("optimized_attention_override")

        def see(attention: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            if len(args) >= 3:
                self._see(args[0], args[1])
            if previous is not None:
                return previous(attention, *args, **kwargs)
            out = self._attend(attention, args, kwargs)
            return attention(*args, **kwargs) if out is None else out

        return append_patch({**options, "optimized_attention_override": see}, "middle_patch", self._pass_middle)

    def attention(self) -> LayerAttention:
        """What was seen, the rest projected afresh; the view lets go of it, since the layer may still be running."""
        layer, cross = self._layer, self._cross
        queries, keys = self._self or self._project(layer.attn1, layer.norm1(self._hidden))
        if self._wants_cross and cross is None:
            cross = self._project(layer.attn2, layer.norm2(self._after_self), self._context)
        row_log_sum, self._row_log_sum, self._self, self._cross = self._row_log_sum, None, None, None
        return LayerAttention(queries, keys, row_log_sum, cross)

    def _see(self, queries: Tensor, keys: Tensor) -> None:
        if queries.shape != (*self._hidden.shape[:2], self._layer.n_heads * self._layer.d_head):
            return
        if not self._past_self:
            if self._self is None and keys.shape == queries.shape:
                self._self = self._split(queries), self._split(keys)
        elif self._wants_cross and self._cross is None and keys.shape[0] == queries.shape[0]:
            self._cross = self._split(queries), self._split(keys)

    def _attend(self, attention: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Any) -> Tensor | None:
        """The self-attention itself, through the op that also gives its log-sum-exp; `None` where that is not one.

        Only in the place of ComfyUI's call to PyTorch's own attention, whose kernel this is.
        """
        if attention not in _PYTORCH_ATTENTION or self._past_self or self._self is None or len(args) != 4:
            return None
        plain = self._row_log_sum is None and kwargs.get("mask") is None and "scale" not in kwargs
        if not plain or kwargs.get("skip_reshape") or kwargs.get("skip_output_reshape"):
            return None
        if args[0].shape != self._hidden.shape or args[2].shape != args[1].shape:
            return None
        done = attention_with_log_sum_exp(*self._self, self._split(args[2]))
        if done is None:
            return None
        out, self._row_log_sum = done
        return out.transpose(1, 2).flatten(2)

    def _pass_middle(self, hidden: Tensor, extra_options: Options) -> Tensor:
        self._past_self = True
        self._after_self = hidden if self._wants_cross else None
        return hidden

    def _project(self, attention: Any, hidden: Tensor, context: Tensor | None = None) -> QueriesKeys:
        return self._split(attention.to_q(hidden)), self._split(attention.to_k(hidden if context is None else context))

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self._layer.n_heads, self._layer.d_head)).transpose(1, 2)
