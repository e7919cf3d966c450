"""Sampling progress from a noise level, in ComfyUI's percent convention: 0 is the most noise, 1 is none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

_HALVINGS = 12
_ROUNDING = 1e-6


def progress_of(sigma: float, percent_to_sigma: Callable[[float], float], landmark: float) -> float:
    """The percent at which `percent_to_sigma`, which falls as percent grows, reaches `sigma`; by bisection.

    To about a four-thousandth, and exact in one respect: the result is `landmark` or more if and only if
    `sigma <= percent_to_sigma(landmark)`, which is ComfyUI's own rule for what starts at a percent. A step that lies
    exactly on the landmark has reached it, whatever the last digit of its noise level.

    Inverting the model's own function means the same for every sampler, scheduler, denoise strength and model type.
    Counting calls would not: heun, dpm_2 and the SDE samplers call the model more than once a step.
    """

    def reached(percent: float) -> bool:
        return float(percent_to_sigma(percent)) >= sigma * (1.0 - _ROUNDING)

    low, high = (landmark, 1.0) if reached(landmark) else (0.0, landmark)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) else (low, middle)
    return low


def percent_to_sigma_on_cpu(model_sampling: Any) -> Callable[[float], float]:
    """A model's `percent_to_sigma`, of a copy on the CPU.

    It is asked a dozen times for every noise level, and every answer read back from a loaded model's tables on the GPU
    makes the GPU wait.
    """
    if isinstance(model_sampling, nn.Module):
        model_sampling = copy.deepcopy(model_sampling).to("cpu")
    on_cpu: Callable[[float], float] = model_sampling.percent_to_sigma
    return on_cpu
