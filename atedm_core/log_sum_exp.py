"""Log-sum-exp attention on whatever fused kernel the device has, without ever building the attention map.

A fused attention kernel computes one such number per query, which is all that map-free ranking needs (`unet.gwpr`).
Where no kernel gives it out, an exact form chunked over the queries takes its place.

B samples, H heads, M queries, N keys, D head size.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .checks import check_shape

logger = logging.getLogger(__name__)

HALF_DTYPES = (torch.float16, torch.bfloat16)
CHUNK_LOGITS = 1 << 22
"""Logits or similarities held at once: 16 MiB in float32, which is well under any fused kernel's own inputs."""

_HEAD_SIZE_MULTIPLE = 8
_PROBE_TOLERANCE = 2e-2

Kernel = Callable[[Tensor, Tensor, float], Tensor]
AttentionKernel = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
K = TypeVar("K")


def log_sum_exp(queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
    """`out[b, h, i] = log sum_j exp(queries[b, h, i] . keys[b, h, j] / sqrt(D) + bias[b, h, j])`.

    Queries `[B, H, M, D]` and keys `[B, H, N, D]`, N >= 1, are of one float dtype, the bias `[B, H, N]` is float32 and
    finite. Gives `[B, H, M]` float32 (float64 for float64). A ValueError names shapes that do not fit together.
    """
    fits = queries.ndim == 4 and keys.ndim == 4 and queries.shape[:2] == keys.shape[:2]
    if not fits or queries.shape[-1] != keys.shape[-1] or keys.shape[-2] < 1:
        raise ValueError(
            f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)} do not fit together: "
            "give [samples, heads, tokens, head size] with the same samples, heads and head size, and one key or more"
        )
    if bias is not None:
        check_shape("bias", bias.shape, keys.shape[:-1], "key")
    scale = queries.shape[-1] ** -0.5
    bias_columns = 0 if bias is None else 2 if queries.dtype in HALF_DTYPES else 1
    kernel = _try_out(_fused_kernel, queries, queries.shape[-1] + bias_columns)
    if kernel is None:
        return chunked_log_sum_exp(queries, keys, bias)
    if bias is not None:
        queries, keys = append_bias(queries, keys, bias, scale)
    return kernel(queries, keys, scale)


def attention_with_log_sum_exp(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
    """Attention `[B, H, M, D]` and its log-sum-exp in one call of PyTorch's own kernel, where that gives both."""
    kernel = _try_out(_attention_kernel, queries, queries.shape[-1])
    return None if kernel is None else kernel(queries, keys, values)


def chunked_log_sum_exp(queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same as `log_sum_exp` with plain matrix products in at least float32, on any device."""
    dtype = torch.promote_types(queries.dtype, torch.float32)
    scale = queries.shape[-1] ** -0.5
    keys_transposed = keys.to(dtype).transpose(-1, -2)
    parts = []
    for part in queries.split(chunk_rows(keys[..., 0].numel()), dim=2):
        logits = part.to(dtype) @ keys_transposed
        logits *= scale
        if bias is not None:
            logits += bias.to(dtype).unsqueeze(-2)
        parts.append(logits.logsumexp(-1))
    return torch.cat(parts, dim=-1)


def append_bias(queries: Tensor, keys: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Carry a bias per key in extra head dimensions, so that any kernel applies it without knowing of it.

    The queries `[B, H, M, D]` get a constant power of two, the keys `[B, H, N, D]` the bias `[B, H, N]` float32 divided
    by that constant and by `scale`, which the kernel multiplies dot products with. In half precision the key's part is
    split into a high and a low half over two dimensions, which keeps about twice the mantissa: without that, a bias of
    -20 in bfloat16 is off by up to 6 % of the weight it stands for.
    """
    # A power of two multiplies without rounding; the nearest to 1/scale keeps both factors far from overflow.
    constant = 2.0 ** round(math.log2(1.0 / scale))
    part = (bias.to(torch.promote_types(keys.dtype, torch.float32)) / (constant * scale)).unsqueeze(-1)
    high = part.to(keys.dtype)
    columns = [high]
    if keys.dtype in HALF_DTYPES:
        columns.append((part - high.to(part.dtype)).to(keys.dtype))
    constants = queries.new_full((*queries.shape[:-1], len(columns)), constant)
    return torch.cat([queries, constants], dim=-1), torch.cat([keys, *columns], dim=-1)


def chunk_rows(row: int) -> int:
    """How many rows of so many logits are computed at once: those that `CHUNK_LOGITS` allows, at least one."""
    return max(1, CHUNK_LOGITS // max(1, row))


def _pad_head(x: Tensor) -> Tensor:
    """Zero-pad the head size to what CUDA kernels ask for; zeros add nothing to a dot product."""
    missing = -x.shape[-1] % _HEAD_SIZE_MULTIPLE
    return torch.nn.functional.pad(x, (0, missing)) if missing else x


def _cpu_flash(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, keys, scale=scale)[1]


def _cuda_flash(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    queries, keys = _pad_head(queries), _pad_head(keys)
    return torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, keys, scale=scale)[1]


def _cuda_efficient(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    queries, keys = _pad_head(queries), _pad_head(keys)
    # Nobody reads the output, so the narrowest values the kernel takes make it cheapest.
    values = keys[..., :_HEAD_SIZE_MULTIPLE]
    out = torch.ops.aten._scaled_dot_product_efficient_attention(queries, keys, values, None, True, scale=scale)
    return out[1][..., : queries.shape[-2]]


def _cuda_cudnn(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    queries, keys = _pad_head(queries), _pad_head(keys)
    out = torch.ops.aten._scaled_dot_product_cudnn_attention(queries, keys, keys, None, True, scale=scale)
    return out[1].reshape(queries.shape[:-1])


def _cpu_attention(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values)[:2]


def _cuda_attention(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, values)[:2]


def _candidates(device_type: str, dtype: torch.dtype) -> list[Kernel]:
    if device_type == "cuda":
        return [_cuda_flash, _cuda_efficient, _cuda_cudnn] if dtype in HALF_DTYPES else [_cuda_efficient]
    return [_cpu_flash] if device_type == "cpu" else []


def _try_out(find: Callable[..., K | None], queries: Tensor, head_size: int) -> K | None:
    """What `find` finds, or none for this once where memory is too short to try: that says nothing of the kernel."""
    try:
        return find(queries.device, queries.dtype, head_size)
    except torch.OutOfMemoryError:
        return None


# Trying beats knowing: which head sizes a kernel takes, and in which base it gives its logarithm, differs between
# architectures, vendors and releases. What is found holds for a device, dtype and head size.
@functools.cache
def _fused_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> Kernel | None:
    """The first kernel that runs and agrees with the chunked form."""
    for kernel in _candidates(device.type, dtype):
        if _agrees(kernel, device, dtype, head_size):
            return kernel
    message = "AT-EDM: no fused log-sum-exp for %s on %s with head size %d, using the chunked form"
    logger.info(message, dtype, device, head_size)
    return None


@functools.cache
def _attention_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> AttentionKernel | None:
    """The fused attention op that gives out its log-sum-exp, if it runs and agrees."""
    if device.type == "cpu":
        kernel = _cpu_attention
    elif device.type == "cuda" and dtype in HALF_DTYPES and head_size % _HEAD_SIZE_MULTIPLE == 0:
        kernel = _cuda_attention
    else:
        return None
    return kernel if _agrees(lambda q, k, scale: kernel(q, k, k)[1], device, dtype, head_size) else None


def _agrees(kernel: Kernel, device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    # A fixed ramp, not random numbers: the global generator must not move.
    ramp = torch.arange(2 * 3 * 37 * head_size, device=device, dtype=torch.float32)
    tokens = (ramp.mul(0.7).sin() * 2).reshape(2, 3, 37, head_size).to(dtype)
    queries, keys = tokens[:, :, :16].contiguous(), tokens[:, :, 8:].contiguous()
    try:
        found = kernel(queries, keys, head_size**-0.5)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError):
        return False
    expected = chunked_log_sum_exp(queries, keys)
    return found.shape == expected.shape and bool((found - expected).abs().max() < _PROBE_TOLERANCE)
