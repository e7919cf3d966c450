"""Sampling progress from a noise level, in ComfyUI's percent convention: 0 is the most noise, 1 is none."""

from __future__ import annotations

from collections.abc import Callable

# down to neighbouring floating-point numbers for every percent from 0.001 up
_HALVINGS = 64


def progress_of(sigma: float, percent_to_sigma: Callable[[float], float]) -> float:
    """The largest percent at which `percent_to_sigma`, which falls as percent grows, is not below `sigma`.

    So that `progress_of(sigma, f) >= percent` where `sigma <= f(percent)`, and nowhere else: ComfyUI's own rule for
    what starts at a percent. The noise level does not change with every floating-point percent, so the bisection goes
    on to the end of such a stretch; a step that lies exactly on a boundary then falls on the boundary's later side.

    Inverting the model's own function means the same for every sampler, scheduler, denoise strength and model type.
    Counting calls would not: heun, dpm_2 and the SDE samplers call the model more than once a step.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(percent_to_sigma(middle)) >= sigma:
            low = middle
        else:
            high = middle
    return low
