"""Steps of a run as they end: how long each took, and what its node shows meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from .audience import Audience

Doing = Literal["pruned", "full", "forecast"]
_PAUSE = 0.2  # seconds between two messages at least: a page that redraws for every quick step would slow them
_CALLBACK = 1  # among the arguments of the host's `OUTER_SAMPLE` behind the noise schedule


class StepWatch:
    """Of one run: hears the callback that the host calls after each step."""

    def __init__(self, steps: int, doing: Callable[[], Doing], audience: Audience | None) -> None:
        self._steps = steps
        self._doing = doing
        self._audience = audience
        self._ended: list[float] = []
        self._told = float("-inf")

    def listen(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a run with its callback heard. A run without one is not watched."""
        if kwargs.get("callback") is not None:
            return args, {**kwargs, "callback": self._heard(kwargs["callback"])}
        if len(args) > _CALLBACK and args[_CALLBACK] is not None:
            heard = self._heard(args[_CALLBACK])
            return (*args[:_CALLBACK], heard, *args[_CALLBACK + 1 :]), dict(kwargs)
        return args, dict(kwargs)

    def step_seconds(self, began: float | None) -> tuple[float, ...]:
        """How long each step took, given when the sampling loop began; empty where that is not known."""
        if began is None:
            return ()
        return tuple(end - start for start, end in zip([began, *self._ended], self._ended, strict=False))

    def _heard(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        def heard(step: Any, *rest: Any, **more: Any) -> Any:
            self._step_ended(int(step))
            return callback(step, *rest, **more)

        return heard

    def _step_ended(self, step: int) -> None:
        now = time.perf_counter()
        self._ended.append(now)
        if self._audience is not None and now - self._told >= _PAUSE:
            self._told = now
            shown = {"state": "sampling", "step": step + 1, "steps": self._steps, "doing": self._doing()}
            self._audience.tell(shown)
