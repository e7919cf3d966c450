"""Sampling progress from a noise level, in ComfyUI's percent convention: 0 is the most noise, 1 is none."""

from __future__ import annotations

from collections.abc import Callable

_HALVINGS = 30


def progress_of(sigma: float, percent_to_sigma: Callable[[float], float]) -> float:
    """The percent at which `percent_to_sigma`, which falls as percent grows, gives `sigma`; found by bisection.

    Inverting the model's own function means the same for every sampler, scheduler, denoise strength and model type.
    Counting calls would not: heun, dpm_2 and the SDE samplers call the model more than once a step.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return high
