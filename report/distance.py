"""How far a picture is from another: PSNR, and SSIM (Wang et al. 2004) on luminance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LUMINANCE = (0.299, 0.587, 0.114)
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
MOST_PSNR = 99.0
"""In dB: what equal pictures are said to have."""


@dataclass(frozen=True)
class Distance:
    """PSNR in dB, `MOST_PSNR` for equal pictures, and SSIM, 1 for equal pictures; means over a batch."""

    psnr: float
    ssim: float


def distance(picture: Tensor, reference: Tensor) -> Distance | None:
    """Of pictures `[B, H, W, 3]` of 0 to 1 on the CPU, pair by pair; `None` where they are not of one size."""
    if picture.shape[1:] != reference.shape[1:] or min(picture.shape[1:3]) < _WINDOW:
        return None
    pairs = min(len(picture), len(reference))
    own, other = picture[:pairs].double(), reference[:pairs].double()
    errors = (own - other).square().flatten(1).mean(dim=1)
    levels = [MOST_PSNR if error <= 0 else min(MOST_PSNR, -10.0 * math.log10(error)) for error in errors.tolist()]
    return Distance(sum(levels) / pairs, float(_ssim(_gray(own), _gray(other))))


def _gray(pictures: Tensor) -> Tensor:
    return (pictures * pictures.new_tensor(_LUMINANCE)).sum(dim=-1).unsqueeze(1)


def _ssim(own: Tensor, other: Tensor) -> Tensor:
    places = torch.arange(_WINDOW, dtype=own.dtype) - _WINDOW // 2
    weights = torch.softmax(-places.square() / (2 * _SIGMA**2), dim=0)

    def mean(values: Tensor) -> Tensor:
        rows = torch.nn.functional.conv2d(values, weights.view(1, 1, -1, 1))
        return torch.nn.functional.conv2d(rows, weights.view(1, 1, 1, -1))

    mean_own, mean_other = mean(own), mean(other)
    spread_own, spread_other = mean(own * own) - mean_own**2, mean(other * other) - mean_other**2
    shared = mean(own * other) - mean_own * mean_other
    likeness = (2 * mean_own * mean_other + _C1) * (2 * shared + _C2)
    return (likeness / ((mean_own**2 + mean_other**2 + _C1) * (spread_own + spread_other + _C2))).mean()
