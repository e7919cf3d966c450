"""How far one picture is from another, and whether both show the same scene."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import convolve, uniform_filter
from skimage.metrics import structural_similarity

from demo.check import judge, see
from demo.photographs.check import looks_like, standing_out
from demo.photographs.scenes import PhotoScene

TRAINED_SIZE = 256
"""Edge of the pictures that both models were trained on, in pixels."""
HIGHEST_PSNR = 80.0
"""dB given to equal pictures, whose ratio is infinite, so that medians stay numbers."""


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures, dB."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return HIGHEST_PSNR if error == 0 else min(HIGHEST_PSNR, 10 * float(np.log10(255**2 / error)))


def gradient_deviation(one: np.ndarray, other: np.ndarray) -> float:
    """Gradient magnitude similarity deviation of two uint8 pictures `[H, W, 3]`: 0 for equal ones, 0.3 is another one.

    A perceptual distance without weights (Xue, Zhang, Mou and Bovik 2014, equations 4 to 6, with their constant), on
    the luma at half the resolution.
    """
    first, second = (_gradients(picture) for picture in (one, other))
    similarity = (2 * first * second + _STABILITY) / (first**2 + second**2 + _STABILITY)
    return float(similarity.std())


_STABILITY = 170.0
_PREWITT = np.array([[1, 0, -1]] * 3) / 3


def _gradients(picture: np.ndarray) -> np.ndarray:
    luma = uniform_filter(picture.astype(np.float64) @ (0.299, 0.587, 0.114), 2)[::2, ::2]
    return np.hypot(convolve(luma, _PREWITT, mode="nearest"), convolve(luma, _PREWITT.T, mode="nearest"))


def relative_error(found: np.ndarray, true: np.ndarray) -> float:
    """Euclidean norm of the difference over that of the true one."""
    return float(np.linalg.norm(found.astype(np.float64) - true) / np.linalg.norm(true))


def compare(
    picture: np.ndarray, latent: np.ndarray, reference: np.ndarray, reference_latent: np.ndarray, scene: Any
) -> dict[str, Any]:
    """Every measure of a picture, uint8 [H, W, 3], and its latent [C, h, w] against the unpruned ones.

    `same scene` says that both show the same things to the check of the scene's subject, `right` that the picture is
    what the caption says.
    """
    ssim = structural_similarity(picture, reference, channel_axis=2)
    shown, true = at_trained_size(picture), at_trained_size(reference)
    return {
        "psnr": round(psnr(picture, reference), 4),
        "ssim": round(float(ssim), 6),
        "latent_error": round(relative_error(latent, reference_latent), 6),
        "gmsd": round(gradient_deviation(picture, reference), 6),
        "same_scene": _shown(shown, scene) == _shown(true, scene),
        "right": _right(shown, scene),
        "reference_right": _right(true, scene),
    }


def at_trained_size(picture: np.ndarray) -> np.ndarray:
    """A square uint8 picture `[H, H, 3]` as small as those that the checks of scenes know: means of whole squares."""
    times = picture.shape[0] // TRAINED_SIZE
    if times <= 1:
        return picture
    edge = picture.shape[0] // times
    return picture.reshape(edge, times, edge, times, -1).mean(axis=(1, 3)).round().astype(np.uint8)


def _shown(picture: np.ndarray, scene: Any) -> tuple[Any, ...]:
    """Object, colour and place of a flat shape; what stands out and which colours agree, of a photograph."""
    if isinstance(scene, PhotoScene):
        return standing_out(picture), *looks_like(picture, scene).values()
    seen = see(picture)
    return seen.shape, seen.colour, seen.place


def _right(picture: np.ndarray, scene: Any) -> bool:
    if isinstance(scene, PhotoScene):
        return all(found is not False for found in looks_like(picture, scene).values())
    return bool(judge(picture, scene)["right"])
