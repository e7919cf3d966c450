"""When CAT Pruning runs the whole model: the first steps, and later ones if asked for.

What a step predicts counts for the more the more noise it takes away of what is there. The last step that still finds
noise decides most: refreshes that meet it, in place of the step after it, are worth 2 to 7 dB at equal cost on the
small transformers of the lab. So they are counted back from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from ..checks import check_range
from ..forecast import half_log_snr

LEAST_FULL_STEPS = 2
SETTLED = 3.0
"""Half a log-SNR from which a step moves the latent no more: 5 % of noise for a flow model."""
_SAME = 1e-4


@dataclass(frozen=True)
class CATSchedule:
    """Which steps of a run compute all tokens. Steps count from 0.

    Attributes:
        warmup: share of the run's steps, from the first on, 0 to 1; 8 of 28 in the paper.
        least_full_steps: at least this many of them, 2 or more, since a change takes two.
        refresh_interval: after the warm-up every so many-th step is full; 0 for none, as in the paper.
        last_full_steps: this many at the end; 0 in the paper.
        settled_steps: this many at the end find hardly any noise; refreshes are counted from the one before, both ways.
    """

    warmup: float = 0.29
    least_full_steps: int = 4
    refresh_interval: int = 0
    last_full_steps: int = 0
    settled_steps: int = 0

    def __post_init__(self) -> None:
        check_range("warmup", self.warmup, 0.0, 1.0)
        if self.least_full_steps < LEAST_FULL_STEPS:
            raise ValueError(f"least_full_steps is {self.least_full_steps}: give {LEAST_FULL_STEPS} or more")
        for name in ("refresh_interval", "last_full_steps", "settled_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more")

    def warmup_steps(self, steps: int) -> int:
        """Full steps at the start of a run of `steps`.

        >>> CATSchedule().warmup_steps(28), CATSchedule().warmup_steps(8)
        (8, 4)
        """
        return max(self.least_full_steps, round(self.warmup * steps))

    def why_full(self, step: int, steps: int) -> str | None:
        """Why step number `step` of `steps` computes all tokens, in words; `None` for one that is pruned.

        >>> CATSchedule().why_full(7, 28), CATSchedule().why_full(8, 28)
        ('to warm up', None)
        """
        if step < self.warmup_steps(steps):
            return "to warm up"
        if step >= steps - self.last_full_steps:
            return "at the end"
        last = steps - 1 - self.settled_steps
        return "to refresh" if self.refresh_interval > 0 and (last - step) % self.refresh_interval == 0 else None

    def is_full(self, step: int, steps: int) -> bool:
        """Whether step number `step` of `steps` computes all tokens."""
        return self.why_full(step, steps) is not None

    def full_before_pruned(self, step: int, steps: int) -> bool:
        """Whether `step` is full and the next one may not be: what it computes will be used again."""
        return self.is_full(step, steps) and step + 1 < steps and not self.is_full(step + 1, steps)

    def pruned_steps(self, steps: int) -> int:
        """How many steps of a run of `steps` are not full."""
        return sum(not self.is_full(step, steps) for step in range(steps))


DEFAULT_SCHEDULE = CATSchedule(warmup=0.1, least_full_steps=3, refresh_interval=2)
"""What came nearest to the full run at equal FLOPs on both small transformers of the lab (`docs/cat_fidelity.md`)."""


def settled_steps(sigmas: Sequence[float], flow: bool) -> int:
    """How many steps at the end of a run find hardly any noise.

    1 or 0 on most schedules; on flow models with karras or exponential up to half of them.

    Args:
        sigmas: the run's schedule, falling, one more than there are steps.
        flow: see `forecast.half_log_snr`.

    >>> settled_steps([1.0, 0.5, 0.15, 0.009, 0.0], flow=True), settled_steps([1.0, 0.5, 0.15, 0.0], flow=True)
    (1, 0)
    """
    from_the_end = reversed(sigmas[:-1])
    return sum(1 for _ in takewhile(lambda sigma: half_log_snr(sigma, flow) >= SETTLED, from_the_end))


def step_at(sigma: float, sigmas: Sequence[float]) -> int:
    """The step that a noise level belongs to: the last one that starts at it or above, 0 if there is none.

    A sampler that evaluates the model several times a step does so between two levels of the schedule, or again at one.
    Counting calls would end the warm-up early for those.

    Args:
        sigma: of the model call.
        sigmas: the run's schedule, falling, one more than there are steps.

    >>> [step_at(sigma, [10.0, 5.0, 1.0, 0.0]) for sigma in (12.0, 10.0, 7.0, 5.0, 0.5)]
    [0, 0, 0, 1, 2]
    """
    return max(0, sum(sigma <= level * (1.0 + _SAME) for level in sigmas[:-1]) - 1)
