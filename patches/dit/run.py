"""One sampling run under CAT Pruning: which evaluations are full, what is kept from one to the next, what was done."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...atedm_core.dit.flops import TransformerStructure, transformer_flops
from ...atedm_core.dit.schedule import CATSchedule, step_at
from ...atedm_core.dit.selection import CATSelection, SelectorFactory, TokenSelector
from ...report.record import Tally
from ..host.kept_counts import KeptCounts
from .families import Family
from .kv_cache import CallMemory
from .tally import CATTally


@dataclass(frozen=True)
class CATMethod:
    """What CAT Pruning does to a model, fixed when the node runs."""

    selection: CATSelection
    schedule: CATSchedule
    family: Family
    select: SelectorFactory = TokenSelector


class CATRun:
    """State of one run, made anew for each and dropped when it ends.

    Attributes:
        method: what to do.
        sigmas: the run's noise schedule.
        latent: shape of the run's latent, `[B, C, ..., H, W]`.
        grid: (height, width) in tokens.
        structure: of the model.
        nothing_because: why nothing was even tried, if so.
        tally: what was done.
        memories: by the uuids of the conditions that were batched in one call.
        disabled: why the rest of the run is full, if so.
        why_full: why the evaluation under way computes all tokens, once `selected` was asked; empty if it does not.
        maps: counts the tokens that each step computed, if somebody wants to know.
    """

    def __init__(
        self,
        method: CATMethod,
        sigmas: Sequence[float],
        latent: Sequence[int],
        grid: tuple[int, int],
        structure: TransformerStructure,
    ) -> None:
        self.method = method
        self.sigmas = list(sigmas)
        self.latent = tuple(latent)
        self.grid = grid
        self.structure = structure
        self.nothing_because: str | None = None
        self.tally = CATTally()
        self.memories: dict[tuple[Hashable, ...], CallMemory] = {}
        self.disabled: str | None = None
        self.why_full = ""
        self.maps: KeptCounts | None = None
        self.mask: Tensor | None = None
        self._selector = method.select(method.selection, grid)
        self._positive: list[Hashable] = []
        self._signals: dict[Hashable, tuple[Tensor, bool]] = {}
        self._source: Hashable = None
        self._sigma: float | None = None
        self._signals_sigma: float | None = None
        self._observed_sigma: float | None = None
        self._selected: Tensor | None = None
        self._selected_sigma: float | None = None
        self._token_mask: Tensor | None = None
        self._answered: set[Hashable] = set()
        self._decided = False

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return len(self.sigmas) - 1

    @property
    def tokens(self) -> int:
        """N, image tokens of one picture."""
        return self.grid[0] * self.grid[1]

    @property
    def step(self) -> int:
        """The step that the evaluation under way belongs to."""
        return self.step_of(self._sigma or 0.0)

    def step_of(self, sigma: float) -> int:
        """The step that a noise level belongs to."""
        return step_at(sigma, self.sigmas)

    def begin(self, sigma: float, positive: list[Hashable]) -> None:
        """A new evaluation at a noise level, whose positive conditions have these uuids.

        Nothing is decided before the model is called: another node may answer the sampler in its place.
        """
        self._sigma, self._positive = sigma, positive
        self._answered.clear()
        self._decided = False

    def answered(self, uuids: tuple[Hashable, ...]) -> bool:
        """Whether this evaluation has had an answer for one of these conditions already."""
        return not self._answered.isdisjoint(uuids)

    def selected(self) -> Tensor | None:
        """Tokens to compute in the evaluation under way, `[B, K]` int64 for B pictures; `None` for all."""
        if not self._decided:
            self._decided = True
            self._take_signals()
            self._selected = self._decide()
        return self._selected

    def answer(self, uuids: tuple[Hashable, ...], memory: CallMemory, model: Any, *, pruned: bool) -> None:
        """A call has ended for these conditions: keep what it leaves behind."""
        self._answered.update(uuids)
        if not pruned:
            self._replace(uuids, memory)
        if memory.output is not None:
            noise = self.method.family.noise(model, memory.output)
            for uuid, rows in zip(uuids, noise.chunk(len(uuids)), strict=True):
                self._signals[uuid] = (rows, not pruned)
            self._signals_sigma = self._sigma
        self.tally.most_bytes = max(self.tally.most_bytes, self.nbytes())

    def spend(
        self,
        uuids: tuple[Hashable, ...],
        samples: int,
        text_tokens: int,
        whole_because: str | None,
    ) -> None:
        """Count a call of the model.

        Args:
            uuids: of its conditions.
            samples: inputs of the model in it.
            text_tokens: of one of them.
            whole_because: why it computes all tokens; `None` for a pruned one.
        """
        kept = self.method.selection.kept(self.tokens) if whole_because is None else self.tokens
        full = transformer_flops(self.structure, self.tokens, text_tokens)
        flops = transformer_flops(self.structure, self.tokens, text_tokens, kept)
        one = Tally(1, int(whole_because is None), self.tokens, kept, full, flops)
        self.tally.add(self._sigma or 0.0, self.step, uuids, samples, text_tokens, one, whole_because)

    def drop(self, uuids: tuple[Hashable, ...]) -> None:
        """Forget what is kept for any of these conditions."""
        for known in [known for known in self.memories if not set(known).isdisjoint(uuids)]:
            del self.memories[known]

    def disable(self, reason: str) -> None:
        """Run in full from here on, and free what is kept."""
        self.disabled = reason
        self.memories.clear()

    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return sum(memory.nbytes() for memory in self.memories.values())

    def reset(self) -> None:
        """Free everything that takes memory. The tally stays."""
        self.maps = None
        self.memories.clear()
        self._signals.clear()
        self._selector.reset()
        self._selected = self._token_mask = self.mask = None

    def _replace(self, uuids: tuple[Hashable, ...], memory: CallMemory) -> None:
        self.drop(uuids)
        if self.disabled is None:
            self.memories[uuids] = memory

    def _take_signals(self) -> None:
        """Show the selector what the positive condition's last evaluation gave."""
        found = self._signals
        self._signals = {}
        source = self._source if self._source in found else next(iter(self._sources(found)), None)
        if source is None:
            return
        if source != self._source:
            self._source = source
            self._selector.reset()
        noise, full = found[source]
        self._selector.observe(noise, full=full, again=self._signals_sigma == self._observed_sigma)
        self._observed_sigma = self._signals_sigma

    def _sources(self, found: dict[Hashable, Any]) -> Iterator[Hashable]:
        # A guider may name its conditions otherwise; then any of them is as good as another.
        return (uuid for uuid in (self._positive or list(found)) if uuid in found)

    def _decide(self) -> Tensor | None:
        released = self._released()
        self.why_full = self.disabled or self.method.schedule.why_full(self.step, self.steps) or ""
        if not self.why_full and not self._selector.ready:
            self.why_full = "two full evaluations have to come first"
        if self.why_full:
            return None
        if released is None and self._selected is not None and self._selected_sigma == self._sigma:
            return self._selected
        keep = self.method.selection.kept(self.tokens)
        if released is not None and int(released.sum(dim=1).amax()) > keep:
            self.why_full = "the mask set more tokens free than a step computes"
            return None
        self._selected_sigma = self._sigma
        return self._selector.choose(released)

    def _released(self) -> Tensor | None:
        """`[B, N]` bool: tokens that the inpainting mask set free since the last evaluation; `None` if it stays."""
        if self.mask is None:
            return None
        before, self._token_mask = self._token_mask, token_mask(self.mask, self.grid, self.latent)
        return None if before is None else self._token_mask > before


def token_mask(mask: Tensor, grid: tuple[int, int], latent: tuple[int, ...]) -> Tensor:
    """An inpainting mask for each token, the largest value on its patch: `[B, ..., H, W]` -> `[B, N]`."""
    plane = mask.float().flatten(1, -3).amax(dim=1, keepdim=True)
    patch = tuple(-(-side // places) for side, places in zip(plane.shape[-2:], grid, strict=True))
    pooled = torch.nn.functional.max_pool2d(plane, patch, ceil_mode=True)
    return pooled.flatten(1).expand(latent[0], -1)
