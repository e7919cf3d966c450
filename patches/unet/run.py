"""One sampling run: what is pruned where, and what was done. Made anew for each run, dropped when it ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ...atedm_core.tokens import EvenOrder, TokenSubset, kept_tokens
from ...atedm_core.unet.flops import block_flops
from ...atedm_core.unet.ranking import RankTokens, rank_tokens
from ...atedm_core.unet.schedule import DSAPSchedule
from ...atedm_core.unet.settings import PrunePoint, PruneSettings
from ...atedm_core.unet.structure import AttentionBlock, UNetStructure
from ...report.record import Tally
from ..host.progress import progress_of
from .rank_memory import RankMemory
from .token_maps import TokenMaps
from .update_memory import UpdateMemory

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


@dataclass
class PruneRun:
    """State of one run, keyed by condition uuid and block.

    Attributes:
        method: what to do.
        percent_to_sigma: of the model's sampling.
        tallies: by (condition uuid, block name).
        timeline: by (progress, block name).
        points: how often blocks dropped their tokens at each pruning point, counted once for every condition.
        maps: counts the tokens that each block kept, if somebody wants to know.
    """

    method: Method
    percent_to_sigma: Callable[[float], float]
    tallies: dict[tuple[Hashable, str], Tally] = field(default_factory=dict)
    timeline: dict[tuple[float, str], Tally] = field(default_factory=dict)
    points: Counter[PrunePoint] = field(default_factory=Counter)
    maps: TokenMaps | None = None
    _progress: dict[float, float] = field(default_factory=dict)
    _orders: dict[tuple[tuple[int, int], torch.device], EvenOrder] = field(default_factory=dict)
    # Several devices may each run a part of the conditions, one thread per device.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __deepcopy__(self, memo: dict[int, Any]) -> PruneRun:
        """Itself: nodes that copy the options deeply for a model call of their own are still in this run."""
        return self

    def __post_init__(self) -> None:
        settings = self.method.settings
        self.rankings = RankMemory(settings.rank_interval)
        self.updates = UpdateMemory()
        self.remembers = settings.ranks_by_attention and settings.rank_interval > 1
        self._blocks = {(block.part, block.index): block for block in self.method.structure.blocks}

    def block(self, transformer_options: dict[str, Any]) -> AttentionBlock | None:
        """The attention block that is running, or `None` if it is not one that can be pruned."""
        place = transformer_options.get("block")
        return None if place is None else self._blocks.get(tuple(place))

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
            self._progress[sigma] = progress_of(sigma, self.percent_to_sigma, self.method.schedule.early_percent)
        return self._progress[sigma]

    def keep(self, tokens: int, block: AttentionBlock, progress: float) -> int:
        """How many of `tokens` stay in `block`."""
        return kept_tokens(tokens, self.method.schedule.ratio(progress, block))

    def even_order(self, grid: tuple[int, int], device: torch.device) -> EvenOrder:
        """Of a (height, width) grid on a device, made once."""
        if (grid, device) not in self._orders:
            self._orders[grid, device] = EvenOrder.of(grid, device)
        return self._orders[grid, device]

    def remembers_updates(self, block: AttentionBlock) -> bool:
        """Whether tokens' updates in `block` are worth remembering: they are asked for, and it is pruned some time."""
        return self.method.settings.recovery == "temporal" and self.method.schedule.ratio(1.0, block) > 0

    def record(
        self,
        uuids: list[Hashable],
        block: AttentionBlock,
        progress: float,
        samples: int,
        tokens: int,
        kept: int,
        context_tokens: int,
        **how: Any,
    ) -> None:
        """Add what each condition spent in a block in one model call.

        Args:
            uuids: of the conditions.
            block: which.
            progress: of the call.
            samples: of each condition.
            tokens: on the full grid.
            kept: tokens left after pruning.
            context_tokens: text tokens.
            how: what else `block_flops` takes, where tokens were dropped.
        """
        full = block_flops(block, tokens, context_tokens=context_tokens)
        flops = block_flops(block, tokens, kept, context_tokens=context_tokens, **how) if kept < tokens else full
        spent = Tally(1, int(kept < tokens), samples * tokens, samples * kept, samples * full, samples * flops)
        with self._lock:
            for uuid in uuids:
                key, when = (uuid, block.name), (progress, block.name)
                self.tallies[key] = self.tallies.get(key, Tally()) + spent
                self.timeline[when] = self.timeline.get(when, Tally()) + spent
            if kept < tokens:
                self.points[how["point"]] += len(uuids)

    def total(self) -> Tally:
        """Everything spent so far, over conditions and blocks."""
        return sum(self.tallies.values(), Tally())

    def seen_progress(self) -> list[float]:
        """Progress of every noise level the model was called at."""
        return list(self._progress.values())

    def reset(self) -> None:
        """Forget what was done."""
        self.tallies.clear()
        self.timeline.clear()
        self.points.clear()
        self.maps = None
        self.rankings.reset()
        self.updates.reset()
        self._progress.clear()
        self._orders.clear()
