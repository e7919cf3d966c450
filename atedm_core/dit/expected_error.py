"""Which tokens a diffusion transformer recomputes at a step, by how wrong each is likely to have become.

An unselected token keeps the clean latent it was last predicted to have, so what it does wrong grows with the time it
has waited and with the pace at which that prediction changes. The pace was seen when it was last recomputed: the
change, over the steps that it had waited. At a noise level, a change of the clean latent is one of the velocity over
that level. Clean latents are compared because the noise that some samplers add in every step is in any velocity.

Where a token's error grows in proportion to its wait, waits in inverse proportion to the root of the pace make the sum
of all errors smallest for a given number of turns. So a token's turn comes by the root of its pace times its wait.

B images, N tokens, K selected tokens, D numbers of a clean latent per token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .clusters import lattice_rank
from .selection import CATSelection, TokenSelector

_LEAST_PACE = 1e-3
"""Of the mean over the image: a token that did not change at all waits some thirty times as long as the others."""


class Selector(Protocol):
    """Chooses the tokens of step after step from what it is shown of them."""

    @property
    def ready(self) -> bool:
        """Whether enough full steps have been seen to choose by."""

    @property
    def waited(self) -> Tensor | None:
        """`[B, K]` float32, steps since the tokens chosen last were recomputed, 1 or more; `None` if nobody counts."""

    def observe(self, noise: Tensor, *, full: bool, again: bool = False, sigma: float = 1.0) -> None:
        """What all tokens are predicted to be, or their noise, after a step."""

    def choose(self, forced: Tensor | None = None) -> Tensor:
        """Positions of the tokens of the next pruned step, `[B, K]` int64, ascending."""

    def reset(self) -> None:
        """Forget everything seen and chosen."""


SelectorFactory = Callable[[CATSelection, tuple[int, int]], Selector]
"""What makes the selector of a run: `selector_of`, or a control in its place."""


def selector_of(settings: CATSelection, grid: tuple[int, int]) -> Selector:
    """What chooses by these settings on a grid of (height, width) tokens."""
    kind = ExpectedErrorSelector if settings.choose_by == "expected error" else TokenSelector
    return kind(settings, grid)


class ExpectedErrorSelector:
    """Chooses by expected error. One for each run; it holds tensors.

    Attributes:
        settings: of which it takes `keep_ratio` alone.
        grid: (height, width) in tokens.
    """

    def __init__(self, settings: CATSelection, grid: tuple[int, int]) -> None:
        self.settings = settings
        self.grid = grid
        self.reset()

    def reset(self) -> None:
        """Forget everything seen and chosen."""
        self._latest: Tensor | None = None
        self._pace: Tensor | None = None
        self._wait: Tensor | None = None
        self._chosen: Tensor | None = None
        self._order: Tensor | None = None

    @property
    def ready(self) -> bool:
        """Whether two full steps have been seen, which a pace takes."""
        return self._pace is not None

    @property
    def waited(self) -> Tensor | None:
        """`[B, K]` float32, steps since the tokens chosen last were recomputed, 1 or more."""
        if self._wait is None or self._chosen is None:
            return None
        return self._wait.gather(1, self._chosen)

    def observe(self, noise: Tensor, *, full: bool, again: bool = False, sigma: float = 1.0) -> None:
        """What all tokens are predicted to be after a step.

        Args:
            noise: `[B, N, D]`, clean latents; unselected tokens with what they kept.
            full: every token was recomputed.
            again: the same step as the last, evaluated another time; it says nothing of anybody's pace.
            sigma: the step's noise level.
        """
        # A copy: whoever shows it may go on changing it.
        noise = noise.to(torch.float32, copy=True)
        before, chosen = self._latest, None if full else self._chosen
        if before is not None and before.shape != noise.shape:
            self.reset()
            before = chosen = None
        self._latest = noise
        if before is None or self._wait is None:
            self._wait = noise.new_ones(noise.shape[:2])
        elif not again:
            seen = (noise - before).norm(dim=-1) / (self._wait * sigma)
            self._pace = seen if self._pace is None or chosen is None else _replaced(self._pace, chosen, seen)
            rested = torch.ones_like(self._wait)
            self._wait = rested if chosen is None else _replaced(self._wait + 1.0, chosen, rested)

    def choose(self, forced: Tensor | None = None) -> Tensor:
        """Positions of the tokens of the next pruned step: `[B, K]` int64, ascending.

        Args:
            forced: `[B, N]` bool, tokens that must be among them; no more than K in any image.

        Raises:
            RuntimeError: too few full steps were observed.
        """
        if self._pace is None or self._wait is None:
            raise RuntimeError("no tokens can be chosen yet: two full steps have to be observed first")
        least = self._pace.mean(dim=1, keepdim=True) * _LEAST_PACE
        error = torch.maximum(self._pace, least).sqrt() * self._wait
        if forced is not None:
            error = error.masked_fill(forced, float("inf"))
        if self._order is None or self._order.device != error.device:
            self._order = lattice_rank(self.grid).to(error.device)
        # tokens that are equally wrong are taken evenly from the whole image
        first = error[:, self._order].sort(dim=1, descending=True, stable=True).indices
        keep = self.settings.kept(error.shape[1])
        self._chosen = self._order[first[:, :keep]].sort(dim=1).values
        return self._chosen


def _replaced(values: Tensor, chosen: Tensor, new: Tensor) -> Tensor:
    """`[B, N]`: the values with those of the chosen tokens (`[B, K]`) taken from `new`, which is `[B, N]` too."""
    return values.scatter(1, chosen, new.gather(1, chosen))
