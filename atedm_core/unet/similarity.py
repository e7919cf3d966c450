"""Cosines between tokens in at least float32, whatever the dtype of the model.

On smooth pictures hidden states share most of their direction: cosines lie so near to 1 that half precision has a
handful of values for them all, and squared lengths in float16 overflow.

B samples, N tokens compared with K candidates, C channels; results are float32, float64 for float64 states.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..log_sum_exp import HALF_DTYPES, chunk_rows

_SMALLEST_LENGTH = 1e-12


@dataclass(frozen=True)
class Directions:
    """States of tokens, made ready once for all that compares them.

    `rows` `[B, N, C]` are vectors of length one, zero for a zero token. Where a device multiplies half precision
    matrices into a float32 one they are the states as they are, since directions rounded to half precision would be
    off by more than they differ; `inverse` `[B, N, 1]` float32 of their lengths then.
    """

    rows: Tensor
    inverse: Tensor | None = None

    @classmethod
    def of(cls, states: Tensor | Directions) -> Directions:
        """Of states `[B, N, C]` of any floating-point dtype; what is ready already comes back."""
        if isinstance(states, Directions):
            return states
        dtype = torch.promote_types(states.dtype, torch.float32)
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=dtype)
        inverse = length.clamp_min(_SMALLEST_LENGTH).reciprocal()
        if _multiplies_into_float32(states.device, states.dtype):
            return cls(states, inverse)
        return cls(states * inverse)

    @property
    def unit(self) -> Tensor:
        """Vectors of length one, `[B, N, C]`."""
        return self.rows if self.inverse is None else self.rows * self.inverse

    def pick(self, take: Callable[[Tensor], Tensor]) -> Directions:
        """Those that `take` takes of `[B, N, ...]`."""
        return Directions(take(self.rows), None if self.inverse is None else take(self.inverse))

    def along(self, candidates: Directions, part: slice = slice(None)) -> Tensor:
        """`[B, N, K]`, of a part of these tokens, the cosines with each candidate, times a number of the token's own.

        It is positive, so the most similar candidate of each token is the one with the highest.
        """
        columns = candidates.rows.transpose(1, 2)
        if candidates.inverse is None:
            return torch.bmm(self.rows[:, part], columns)
        products = torch.bmm(self.rows[:, part], columns, out_dtype=torch.float32)
        return products.mul_(candidates.inverse.transpose(1, 2))

    def highest_with(self, candidates: Directions) -> Tensor:
        """`[B, N]`: the cosine of each token with the candidate that is most similar to it."""
        samples, tokens, _ = self.rows.shape
        step = chunk_rows(samples * candidates.rows.shape[1])
        parts = [self.along(candidates, slice(start, start + step)).amax(dim=-1) for start in range(0, tokens, step)]
        highest = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return highest if self.inverse is None else highest.mul_(self.inverse.squeeze(-1))


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
