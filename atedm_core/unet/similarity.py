"""Cosines between tokens in at least float32, whatever the dtype of the model.

On smooth pictures hidden states share most of their direction: cosines lie so near to 1 that half precision has a
handful of values for them all, and squared lengths in float16 overflow.

B samples, M tokens compared with K candidates of the same dtype, C channels; results are float32, float64 for float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..log_sum_exp import HALF_DTYPES, chunk_rows


def along_each(candidates: Tensor) -> Callable[[Tensor], Tensor]:
    """From candidates `[B, K, C]`, what takes tokens `[B, M, C]` to their cosines, times their length, `[B, M, K]`."""
    dtype = torch.float64 if candidates.dtype == torch.float64 else torch.float32
    if _multiplies_into_float32(candidates.device, candidates.dtype):
        # The states go in as they are, since directions rounded to half precision would be off by more than they
        # differ.
        columns, inverse = candidates.transpose(1, 2), 1.0 / _length(candidates).unsqueeze(1)
        return lambda tokens: torch.bmm(tokens, columns, out_dtype=dtype).mul_(inverse)
    directions = torch.nn.functional.normalize(candidates.to(dtype), dim=-1).transpose(1, 2)
    return lambda tokens: torch.bmm(tokens.to(dtype), directions)


def cosines_among(tokens: Tensor) -> Callable[[Callable[[Tensor], Tensor]], Tensor]:
    """From tokens `[B, M, C]`, what takes a way to pick K of them to the highest cosine of each with any of these.

    That is `[B, M]`, 0 for a zero token.
    """
    half = tokens.dtype in HALF_DTYPES
    rows = tokens if half else torch.nn.functional.normalize(tokens, dim=-1)
    lengths = _length(tokens) if half else None

    def highest_with(pick: Callable[[Tensor], Tensor]) -> Tensor:
        candidates = pick(rows)
        columns = candidates.transpose(1, 2)
        along = along_each(candidates) if half else (lambda chunk: torch.bmm(chunk, columns))
        parts = [along(chunk).amax(dim=-1) for chunk in rows.split(chunk_rows(candidates[..., 0].numel()), dim=1)]
        highest = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return highest if lengths is None else highest / lengths

    return highest_with


def _length(x: Tensor) -> Tensor:
    """Of half precision vectors, float32; never zero."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).clamp_min(1e-12)


@functools.cache
def _multiplies_into_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device multiplies half precision matrices into a float32 one; tried once."""
    if device.type != "cuda" or dtype not in HALF_DTYPES:
        return False
    one = torch.ones(1, 8, 8, dtype=dtype, device=device)
    try:
        return bool((torch.bmm(one, one, out_dtype=torch.float32) == 8.0).all())
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError):  # another vendor's device, an old one, or a PyTorch without the option
        return False
