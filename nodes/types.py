"""Types that travel between the pack's nodes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..atedm_core.unet.schedule import DSAPSchedule

Schedule = io.Custom("ATEDM_SCHEDULE")
"""A `DSAPSchedule`."""


def faster_model() -> io.Model.Output:
    """The output of a node that gives the model back pruned."""
    return io.Model.Output(
        "MODEL", display_name="model", tooltip="The model, faster. Connect to the sampler in its place."
    )


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
