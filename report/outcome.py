"""What a run came to, as its node says it: what was saved, or in words why nothing was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .words import Said

State = Literal["saved", "nothing", "off", "interrupted"]


@dataclass(frozen=True)
class Outcome:
    """Of one run.

    Attributes:
        state: `off` where nothing was to be saved, `nothing` where something was.
        saved: share of the model's FLOPs, 0 to 1.
        speed_up: measured; `None` where there are not enough runs to say.
        reason: why nothing was saved.
    """

    state: State
    saved: float = 0.0
    speed_up: float | None = None
    reason: Said | None = None

    def as_json(self) -> dict[str, Any]:
        """As the page gets it."""
        why = None if self.reason is None else self.reason.as_json()
        return {"state": self.state, "saved": self.saved, "speed_up": self.speed_up, "reason": why}
