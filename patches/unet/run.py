"""One sampling run: what is pruned where, and what was done. Made anew for each run, dropped when it ends."""

from __future__ import annotations

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from comfy.ldm.modules.attention import SpatialTransformer

from ...atedm_core.tokens import EvenOrder, TokenSubset
from ...atedm_core.unet.ranking import RankTokens, rank_tokens
from ...atedm_core.unet.schedule import DSAPSchedule
from ...atedm_core.unet.settings import PrunePoint, PruneSettings
from ...atedm_core.unet.structure import AttentionBlock, UNetStructure
from ...report.record import Tally
from ..host.progress import progress_of
from ..host.step_watch import Doing
from .compiled import RunLayer
from .memory import RankMemory
from .same_picture import SamePicture
from .token_maps import TokenMaps

logger = logging.getLogger(__name__)

RUN_KEY = "atedm_run"
"""Where a run's state lies in `transformer_options` while it lasts."""
OBSERVERS_KEY = "atedm_observers"
"""A list of `RunObserver` in `transformer_options`, put there by whoever wants to watch a run."""

_SIGMA_KEY = "atedm_sigma"


@dataclass(frozen=True)
class Method:
    """What AT-EDM does to a model, fixed when the node runs."""

    schedule: DSAPSchedule
    settings: PruneSettings
    structure: UNetStructure
    rank: RankTokens = rank_tokens


@dataclass(frozen=True)
class PruneEvent:
    """A block was pruned: `subset` of `grid` (height, width), for the conditions `uuids`, batched in that order."""

    block: AttentionBlock
    progress: float
    grid: tuple[int, int]
    subset: TokenSubset
    uuids: tuple[Hashable, ...]


class RunObserver(Protocol):
    """Whoever wants to know what a run does while it does it."""

    def pruned(self, event: PruneEvent) -> None:
        """A block was pruned. Index tensors are on the model's device: read them back late, or the device waits."""

    def finished(self, run: PruneRun, steps: int) -> None:
        """The run has ended or was interrupted; what it holds is gone after this call."""


class PruneRun:
    """State of one run.

    Attributes:
        tallies: what was spent, by (condition uuid, block name).
        timeline: the same by (progress, block name).
        points: how often blocks dropped their tokens at each pruning point, counted once for every condition.
        compiled: runs a layer of a block, where the model is compiled.
        maps: counts the tokens that each block kept, if somebody wants to know.
        left_alone: whose code replaced the layers of a block, by the block's name.
        not_worth_it: names of blocks that ran whole because choosing tokens would have cost too much.
        evaluations: how often the sampler has asked for the model's answer so far.
    """

    def __init__(self, method: Method, percent_to_sigma: Callable[[float], float]) -> None:
        self.method = method
        self.tallies: defaultdict[tuple[Hashable, str], Tally] = defaultdict(Tally)
        self.timeline: defaultdict[tuple[float, str], Tally] = defaultdict(Tally)
        self.points: Counter[PrunePoint] = Counter()
        self.maps: TokenMaps | None = None
        self.compiled: RunLayer | None = None
        self.left_alone: dict[str, str] = {}
        self.not_worth_it: set[str] = set()
        self.evaluations = 0
        self.rankings = RankMemory(method.settings.rank_interval)
        self.same_picture = SamePicture()
        self._percent_to_sigma = percent_to_sigma
        self._blocks = {(block.part, block.index): block for block in method.structure.blocks}
        self._told = 0
        self._progress: dict[float, float] = {}
        self._orders: dict[tuple[tuple[int, int], torch.device], EvenOrder] = {}
        # Several devices may each run a part of the conditions, one thread per device.
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> PruneRun:
        """Itself: nodes that copy the options deeply for a model call of their own are still in this run."""
        return self

    def block(self, layer: SpatialTransformer, transformer_options: dict[str, Any]) -> AttentionBlock | None:
        """The attention block that `layer` is; `None` if it cannot be pruned, or is of a U-Net that runs inside."""
        block = self._blocks.get(tuple(transformer_options.get("block") or ()))
        if block is None or (block.layers, block.channels) != (len(layer.transformer_blocks), layer.in_channels):
            return None
        return block

    def sigma(self, transformer_options: dict[str, Any]) -> float | None:
        """Noise level of the model call that is running, `None` if it carries none.

        It is read back once per call, which makes a GPU wait; the noisiest sample's counts.
        """
        sigmas = transformer_options.get("sigmas")
        if sigmas is None:
            return None
        known = transformer_options.get(_SIGMA_KEY)
        # A wrapper may hand over the same options again with another noise level.
        if known is None or known[0] is not sigmas:
            known = transformer_options[_SIGMA_KEY] = (sigmas, float(sigmas.max()))
        return known[1]

    def progress_at(self, sigma: float) -> float:
        """Progress at a noise level."""
        if sigma not in self._progress:
            self._progress[sigma] = progress_of(sigma, self._percent_to_sigma, self.method.schedule.early_percent)
        return self._progress[sigma]

    def seen_progress(self) -> list[float]:
        """Progress of every noise level the model was called at."""
        return list(self._progress.values())

    def even_order(self, grid: tuple[int, int], device: torch.device) -> EvenOrder:
        """Of a (height, width) grid on a device, made once."""
        if (grid, device) not in self._orders:
            self._orders[grid, device] = EvenOrder.of(grid, device)
        return self._orders[grid, device]

    def leave_alone(self, block: AttentionBlock, foreign: str) -> None:
        """Note that a block runs whole because the code of a module called `foreign` runs its layers; say so once."""
        with self._lock:
            if not self.left_alone:
                logger.warning(
                    "AT-EDM: %s replaces whole attention layers and may count on all tokens, so the blocks it touches "
                    "are not pruned while it does. Take it out of this model's path to prune them.",
                    foreign,
                )
            self.left_alone[block.name] = foreign

    def record(
        self, uuids: list[Hashable], block: AttentionBlock, progress: float, spent: Tally, point: PrunePoint | None
    ) -> None:
        """Add what each condition spent in a block in one model call; `point` is where it dropped tokens, if it did."""
        with self._lock:
            for uuid in uuids:
                self.tallies[uuid, block.name] += spent
                self.timeline[progress, block.name] += spent
            if point is not None:
                self.points[point] += len(uuids)

    def total(self) -> Tally:
        """Everything spent so far, over conditions and blocks."""
        return sum(self.tallies.values(), Tally())

    def doing(self) -> Doing:
        """What was done since this was last asked."""
        before, self._told = self._told, self.total().pruned_calls
        return "pruned" if self._told > before else "full"

    def reset(self) -> None:
        """Forget what was done."""
        self.tallies.clear()
        self.timeline.clear()
        self.points.clear()
        self.maps = None
        self.left_alone.clear()
        self.not_worth_it.clear()
        self.rankings.reset()
        self.same_picture.reset()
        self._progress.clear()
        self._orders.clear()
