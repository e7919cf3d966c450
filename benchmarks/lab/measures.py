"""How far one picture is from another, and whether both show the same scene."""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

from demo.check import Seen, judge, see
from demo.scenes import Scene

HIGHEST_PSNR = 80.0
"""dB given to equal pictures, whose ratio is infinite, so that medians stay numbers."""


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures, dB."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return HIGHEST_PSNR if error == 0 else min(HIGHEST_PSNR, 10 * float(np.log10(255**2 / error)))


def relative_error(found: np.ndarray, true: np.ndarray) -> float:
    """Euclidean norm of the difference over that of the true one."""
    return float(np.linalg.norm(found.astype(np.float64) - true) / np.linalg.norm(true))


def compare(
    picture: np.ndarray, latent: np.ndarray, reference: np.ndarray, reference_latent: np.ndarray, scene: Scene
) -> dict[str, Any]:
    """Every measure of a picture, uint8 [H, W, 3], and its latent [C, h, w] against the unpruned ones.

    `same scene` says that object, colour and place are seen the same in both, `right` that the picture is what the
    caption says.
    """
    ssim = structural_similarity(picture, reference, channel_axis=2)
    return {
        "psnr": round(psnr(picture, reference), 4),
        "ssim": round(float(ssim), 6),
        "latent_error": round(relative_error(latent, reference_latent), 6),
        "same_scene": _core(see(picture)) == _core(see(reference)),
        "right": bool(judge(picture, scene)["right"]),
        "reference_right": bool(judge(reference, scene)["right"]),
    }


def _core(seen: Seen) -> tuple[str | None, str | None, str | None]:
    return seen.shape, seen.colour, seen.place
