"""Types that travel between the pack's nodes."""

from __future__ import annotations

from comfy_api.latest import io

Schedule = io.Custom("ATEDM_SCHEDULE")
"""A `DSAPSchedule`."""
