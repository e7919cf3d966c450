"""How long ways of drawing take beside each other, in turns, so that all meet the same machine; how long is left."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from devtools.console import say


def speed_up(full: Sequence[float], way: Sequence[float]) -> dict[str, object]:
    """From the seconds of every round: the median of the rounds' ratios. Above 1 is faster than in full.

    Raises:
        ValueError: there is no round, or not as many of one as of the other.
    """
    ratios = [first / second for first, second in zip(full, way, strict=True)]
    if not ratios:
        raise ValueError("no rounds were timed, so there is no speed-up: let one finish")
    return {
        "seconds": statistics.median(way),
        "speed_up": statistics.median(ratios),
        "speed_up_range": [min(ratios), max(ratios)],
        "rounds": len(ratios),
    }


def turns(ways: Sequence[str], round_number: int) -> list[str]:
    """The order of a round: every other one is reversed, so that a machine getting slower favours nobody."""
    return list(ways) if round_number % 2 == 0 else list(reversed(ways))


@dataclass
class Progress:
    """Says what is being done and about how long it will take, by what each piece is expected to cost.

    Attributes:
        total: expected cost of all pieces, in runs in full.
        count: pieces.
        most: seconds that all pieces may take; where they would take longer, some are left out.
        after: seconds of what follows, which are known.
        clock: seconds.
    """

    total: float
    count: int
    most: float = math.inf
    after: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _done: float = 0.0
    _pieces: int = 0
    _began: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Now."""
        self._began = self.clock()

    def left(self) -> float:
        """Seconds, from the pieces done so far; those of what follows before any is."""
        if self._done == 0:
            return self.after
        spent = self.clock() - self._began
        expected = spent / self._done * max(0.0, self.total - self._done)
        return min(expected, max(0.0, self.most - spent)) + self.after

    def done(self, cost: float, what: str) -> None:
        """A piece is finished."""
        self._done += cost
        self._pieces += 1
        say(f"  {self._pieces:2} of {self.count}  {what:<34} about {duration(self.left())} left")


def duration(seconds: float) -> str:
    """As people say it, to 5 seconds."""
    rounded = max(5, 5 * round(seconds / 5))
    return f"{rounded} s" if rounded < 60 else f"{rounded // 60} min {rounded % 60:02} s"
