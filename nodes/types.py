"""What the pack's nodes share: the type that travels between them, and the makings of their inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..atedm_core.unet.schedule import DSAPSchedule

Schedule = io.Custom("ATEDM_SCHEDULE")
"""A `DSAPSchedule`."""

ALIASES = ("at-edm", "atedm")
"""By which every node of the pack is found."""

Limits = tuple[float, float]
"""The least and the most."""


def schedule_input(tooltip: str) -> Any:
    """A schedule, which may be left out."""
    return Schedule.Input("schedule", optional=True, tooltip=tooltip)


def share_input(name: str, default: float, tooltip: str, limits: Limits = (0.0, 1.0)) -> io.Float.Input:
    """A share."""
    least, most = limits
    return io.Float.Input(name, default=default, min=least, max=most, step=0.01, tooltip=tooltip)


def advanced_share(name: str, default: float, tooltip: str, limits: Limits = (0.0, 1.0)) -> io.Float.Input:
    """A share or a factor that may be left out, in coarser steps."""
    least, most = limits
    return io.Float.Input(
        name, default=default, min=least, max=most, step=0.05, optional=True, advanced=True, tooltip=tooltip
    )


def advanced_combo(name: str, options: Sequence[str], default: str, tooltip: str) -> io.Combo.Input:
    """A choice that may be left out."""
    return io.Combo.Input(name, list(options), default=default, optional=True, advanced=True, tooltip=tooltip)


def advanced_count(name: str, default: int, limits: tuple[int, int], tooltip: str) -> io.Int.Input:
    """A whole number that may be left out. `limits` are the least and the most."""
    least, most = limits
    return io.Int.Input(name, default=default, min=least, max=most, optional=True, advanced=True, tooltip=tooltip)


def named_output(kind: Any, name: str, tooltip: str) -> Any:
    """An output of a type such as `io.Image`, shown by its name."""
    return kind.Output(name, display_name=name, tooltip=tooltip)


def faster_model() -> io.Model.Output:
    """The output of a node that gives the model back pruned."""
    tooltip = "The model, faster. Connect to the sampler in its place."
    return io.Model.Output("MODEL", display_name="model", tooltip=tooltip)


def checked_model(value: Any) -> Any:
    """The value of a `model` input.

    Raises:
        ValueError: it is no MODEL; ComfyUI lets a number or a text pass where a workflow names no link.
    """
    if not hasattr(value, "get_model_object"):
        raise ValueError(f"model is a {type(value).__name__}: connect the MODEL output of a loader")
    return value


def checked_latent(name: str, value: Any) -> torch.Tensor | None:
    """The samples of a LATENT input, `None` where it was left open; a ValueError names something else."""
    samples = value.get("samples") if isinstance(value, dict) else None
    if value is not None and not isinstance(samples, torch.Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}: connect a LATENT, or leave the input open")
    return samples


def checked_image(name: str, value: Any) -> torch.Tensor | None:
    """The pictures of an IMAGE input, `None` where it was left open; a ValueError names something else."""
    if value is not None and not (isinstance(value, torch.Tensor) and value.ndim == 4):
        raise ValueError(f"{name} is a {type(value).__name__}: connect an IMAGE, or leave the input open")
    return value


def checked_schedule(value: Any) -> DSAPSchedule | None:
    """The value of a `schedule` input, `None` where it was left open.

    Raises:
        ValueError: something else was connected.
    """
    if value is not None and not isinstance(value, DSAPSchedule):
        raise ValueError(
            f"schedule is a {type(value).__name__}: connect the output of AT-EDM DSAP Schedule, or leave the input open"
        )
    return value
