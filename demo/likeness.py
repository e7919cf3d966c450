"""How near two pictures are to each other."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

Picture = Image.Image

WINDOW, SPREAD = 11, 1.5  # taps and standard deviation of SSIM's Gaussian window
STABLE = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)  # SSIM's two constants for pictures of 8 bits


def psnr(one: Picture, other: Picture) -> float | None:
    """Peak signal-to-noise ratio in dB; None for equal pictures, whose ratio is infinite."""
    a, b = _values(one), _values(other)
    error = float(np.mean((a - b) ** 2))
    return None if error == 0 else 10 * math.log10(255**2 / error)


def mean_difference(one: Picture, other: Picture) -> float:
    """Mean absolute difference of the pixels, 0 to 255."""
    return float(np.abs(_values(one) - _values(other)).mean())


def ssim(one: Picture, other: Picture) -> float:
    """Structural similarity (Wang et al., 2004), mean over the picture and its three channels; 1 for equal pictures.

    Pictures have to be at least 11 pixels high and wide.
    """
    a, b = _values(one), _values(other)
    mean_a, mean_b = _smooth(a), _smooth(b)
    variance_a, variance_b = _smooth(a * a) - mean_a**2, _smooth(b * b) - mean_b**2
    covariance = _smooth(a * b) - mean_a * mean_b
    first, second = STABLE
    likeness = (2 * mean_a * mean_b + first) * (2 * covariance + second)
    likeness /= (mean_a**2 + mean_b**2 + first) * (variance_a + variance_b + second)
    return float(likeness.mean())


def _values(picture: Picture) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), np.float64)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Weighted by the window where it fits, [H, W, 3] to [H - 10, W - 10, 3]."""
    taps = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SPREAD**2))
    taps /= taps.sum()
    for axis in (0, 1):
        views = np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=axis)
        values = views @ taps
    return values
