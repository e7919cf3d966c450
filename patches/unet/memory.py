"""What one run remembers of its tokens' updates, by condition and attention block, for temporal recovery.

One hidden state per block and condition: 84 MB for SDXL at 1024 px with guidance in half precision. Nothing is held
where the settings do not ask for it.

Updates age by the noise levels at which their condition came by, so a step that a step cache skipped makes nothing
older than anything else, and the order in which tokens take their turn stays.

A condition may come by more than once at one noise level: the second call of heun, guidance by perturbation that runs
a condition again with its attention changed, a wrapper that runs a batch in halves. What comes n-th at a level is
remembered apart, at most twice. Where a condition comes by more often, as with the tiles of tiled sampling, nobody
can tell whose updates are whose: from then on nothing is remembered of it, and its dropped tokens take their
stand-in's update.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...atedm_core.unet.temporal import TokenUpdates

CALLS_PER_LEVEL = 2


@dataclass
class Slot:
    """What is remembered of one condition in one block, for the calls that come n-th at their noise level.

    Attributes:
        updates: of the condition's tokens, aged to the level of the last visit; `None` before the first.
        level: noise levels counted by the condition's visits in this block.
    """

    updates: TokenUpdates | None = None
    level: int = 0


@dataclass
class _Visits:
    """How one condition came by in one block so far."""

    shape: torch.Size
    device: torch.device
    dtype: torch.dtype
    grid: tuple[int, int]
    sigma: float
    level: int = 0
    calls: int = 0
    slots: list[Slot] = field(default_factory=lambda: [Slot() for _ in range(CALLS_PER_LEVEL)])
    lost_count: bool = False

    def fits(self, hidden: Tensor, grid: tuple[int, int]) -> bool:
        return (self.shape, self.device, self.dtype, self.grid) == (hidden.shape, hidden.device, hidden.dtype, grid)


class UpdateMemory:
    """Updates of one run's tokens, by (condition uuid, block name)."""

    def __init__(self) -> None:
        self._visits: dict[tuple[Hashable, str], _Visits] = {}

    def visit(self, uuid: Hashable, block: str, hidden: Tensor, grid: tuple[int, int], sigma: float) -> Slot:
        """The slot that this call of a condition reads and then writes.

        It is empty at the first call, after a change of samples, grid, device or type, and whenever the condition has
        come by more often at a noise level than can be told apart; what is written to it then is forgotten.

        Args:
            uuid: of the condition.
            block: its name.
            hidden: states `[b, N, C]` of the condition's samples in this block.
            grid: (height, width) in tokens.
            sigma: noise level of the model call.
        """
        found = self._visits.get((uuid, block))
        if found is None or not found.fits(hidden, grid):
            found = _Visits(hidden.shape, hidden.device, hidden.dtype, grid, sigma)
            self._visits[uuid, block] = found
        if sigma != found.sigma:
            found.sigma, found.level, found.calls = sigma, found.level + 1, 0
        found.calls += 1
        if found.calls > CALLS_PER_LEVEL:
            found.lost_count = True
            found.slots.clear()
        if found.lost_count:
            return Slot()
        slot = found.slots[found.calls - 1]
        if slot.updates is not None:
            slot.updates = slot.updates.older(found.level - slot.level)
        slot.level = found.level
        return slot

    def reset(self) -> None:
        """Forget everything."""
        self._visits.clear()
