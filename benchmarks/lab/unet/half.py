"""Half precision on a CPU, as an accelerator computes it: products of half numbers, summed in float32, rounded once.

A CPU without instructions for float16 multiplies its matrices some forty times slower than float32 ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_SUMMING = (
    torch.ops.aten.mm,
    torch.ops.aten.addmm,
    torch.ops.aten.bmm,
    torch.ops.aten.baddbmm,
    torch.ops.aten.linear,
    torch.ops.aten.matmul,
    torch.ops.aten.convolution,
    torch.ops.aten.conv2d,
    torch.ops.aten.scaled_dot_product_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
)


class RoundedFloat16(TorchDispatchMode):
    """While entered, sums of products of float16 tensors are computed in float32 and rounded to float16."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        if func.overloadpacket in _SUMMING and any(_is_half(one) for one in args):
            exact_args, exact_kwargs = tree_map_only(Tensor, lambda one: one.float() if _is_half(one) else one, given)
            return tree_map_only(Tensor, _to_half, func(*exact_args, **exact_kwargs))
        return func(*args, **given[1])


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float16


def _to_half(value: Tensor) -> Tensor:
    return value.half() if value.dtype == torch.float32 else value
