"""One sampling run under CAT Pruning: which evaluations are full, what is kept from one to the next, what was done."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...atedm_core.dit.choosing_flops import choosing_flops
from ...atedm_core.dit.expected_error import SelectorFactory, selector_of
from ...atedm_core.dit.flops import TransformerStructure
from ...atedm_core.dit.holding import HeldLatent
from ...atedm_core.dit.schedule import CATSchedule, step_at
from ...atedm_core.dit.selection import CATSelection
from ...atedm_core.forecast import half_log_snr
from ...atedm_core.forecast_schedule import UNKNOWN_SHARE, step_shares
from ..host.kept_counts import KeptCounts
from ..host.step_watch import Doing
from ..steps.samplers import SamplerKind
from .call import TransformerCall
from .clean import by_token, marked, on_latent
from .families import Family
from .kv_cache import CallMemory, Conditions, KVCache
from .layout import Layout
from .tally import CATTally

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CATMethod:
    """What CAT Pruning does to a model, fixed when the node runs."""

    selection: CATSelection
    schedule: CATSchedule
    family: Family
    select: SelectorFactory = selector_of


@dataclass
class Evaluation:
    """What the sampler asks for at once: one call of the model, or several where conditions are not batched.

    Attributes:
        sigma: noise level.
        positive: uuids of the positive conditions.
        answered: uuids of the conditions that have had a call.
        noise: by condition: what it gave of each token, `[B, N, D]`, and whether all of it was computed.
        decided: whether `selected` and `why_full` are known; another node may answer before anybody asks.
        selected: `[B, K]` int64, tokens to compute for each picture; `None` for all.
        waited: `[B, K]` float32, steps since each of them was last computed; `None` if nothing goes by it.
        why_full: why all, in words.
    """

    sigma: float = 0.0
    positive: list[Hashable] = field(default_factory=list)
    answered: set[Hashable] = field(default_factory=set)
    noise: dict[Hashable, tuple[Tensor, bool]] = field(default_factory=dict)
    decided: bool = False
    selected: Tensor | None = None
    waited: Tensor | None = None
    why_full: str = ""


@dataclass(eq=False)
class CATRun:
    """State of one run, made anew for each and dropped when it ends.

    Attributes:
        method: what to do.
        sigmas: the run's noise schedule.
        latent: shape of the run's latent, `[B, C, ..., H, W]`.
        grid: (height, width) in tokens.
        patch: side of a token, in latent pixels.
        layout: of the model's tokens.
        structure: of the run's model.
        attentions: of the run's model, from `Family.attentions`.
        block_kinds: of the run's model, from `Family.block_kinds`.
        sampler: how predictions enter its result.
        flow: see `forecast.half_log_snr`.
        tally: what was done.
        cache: what is kept of every condition.
        evaluation: the one under way.
        disabled: why the rest of the run is full, if so.
        nothing_because: why nothing was even tried, if so.
        maps: counts the tokens that each step computed, if somebody wants to know.
        mask: the inpainting mask of the evaluation under way, if there is one.
    """

    method: CATMethod
    sigmas: list[float]
    latent: tuple[int, ...]
    grid: tuple[int, int]
    patch: int
    layout: Layout
    structure: TransformerStructure
    attentions: int
    block_kinds: tuple[type, ...]
    sampler: SamplerKind
    flow: bool
    cache: KVCache = field(default_factory=KVCache)
    evaluation: Evaluation = field(default_factory=Evaluation)
    disabled: str | None = None
    nothing_because: str | None = None
    maps: KeptCounts | None = None
    mask: Tensor | None = None
    _previous: Evaluation = field(default_factory=Evaluation)
    _source: Hashable = None
    _observed_sigma: float | None = None
    _told: int = 0
    _token_mask: Tensor | None = None

    def __post_init__(self) -> None:
        self.tally = CATTally(self.structure, self.tokens)
        self._selector = self.method.select(self.method.selection, self.grid)
        shares = step_shares(self.sigmas, self.sampler.stochastic, self.sampler.multistep, self.flow)
        self._shares = shares if self.sampler.repays else [UNKNOWN_SHARE] * self.steps

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return len(self.sigmas) - 1

    @property
    def tokens(self) -> int:
        """N, image tokens of one picture."""
        return self.layout.tokens

    @property
    def holds_clean(self) -> bool:
        """Whether a token that is left out keeps the clean latent it had; as published, it keeps the output."""
        return self.method.selection.choose_by == "expected error"

    @property
    def step(self) -> int:
        """The step that the evaluation under way belongs to."""
        return self.step_of(self.evaluation.sigma)

    def step_of(self, sigma: float) -> int:
        """The step that a noise level belongs to."""
        return step_at(sigma, self.sigmas)

    def begin(self, sigma: float, positive: list[Hashable]) -> None:
        """A new evaluation. Conditions that the last one did without are not kept: what they left is a step behind."""
        if self.evaluation.decided:
            self._previous = self.evaluation
            self.cache.drop_all_but(self.evaluation.answered)
        self.evaluation = Evaluation(sigma, positive)

    def selected(self) -> Tensor | None:
        """Tokens to compute in the evaluation under way, `[B, K]` int64; `None` for all."""
        now = self.evaluation
        if not now.decided:
            now.decided = True
            self._observe()
            now.selected = self._choose()
        return now.selected

    def finish(self, call: TransformerCall, uuids: Conditions, model: Any, samples: int, text_tokens: int) -> None:
        """Count a call that has ended, and keep what it left for those to come.

        Args:
            call: that has ended.
            uuids: of its conditions.
            model: that was called.
            samples: inputs of the model in it.
            text_tokens: of one of them.
        """
        now, memory = self.evaluation, call.memory
        if memory is not None:
            now.answered.update(uuids)
        if not call.ran:
            self.tally.answered_calls += 1
            if memory is not None:
                self.cache.drop(uuids)
            return
        kept = self.tokens if call.selected is None else call.selected.shape[1]
        choosing = 0
        if call.selected is not None:
            choosing = choosing_flops(
                self.method.selection, self.structure, self.tokens, after_full=self._previous.selected is None
            )
        self.tally.add(now.sigma, self.step, uuids, samples, text_tokens, kept, call.why_full, choosing)
        if memory is None:
            return
        call.finish(self.attentions)
        if call.refusal is not None:
            self.disable(call.refusal)
        self._keep(call, uuids, memory, model)

    def settle(self, call: TransformerCall, clean: Tensor) -> Tensor:
        """The clean latent that a call predicts (`[R, C, ..., H, W]`), with what is held where it left tokens out.

        A held velocity means another clean latent as soon as a sampler adds noise or looks back, so the clean latent
        itself is held.
        """
        memory = call.memory
        if memory is None or not call.ran or not self.holds_clean:
            return clean
        place = half_log_snr(self.evaluation.sigma, self.flow)
        if memory.held is None:
            parts = zip(memory.earlier, clean.chunk(max(1, len(memory.earlier))), strict=False)
            known = [one if one is not None and one.fits(part) else HeldLatent.of(part, place) for one, part in parts]
            memory.held, memory.earlier = HeldLatent.join(known) if known else HeldLatent.of(clean, place), []
        computed = None
        if call.selected is not None:
            computed = on_latent(marked(call.selected, self.tokens), self.grid, self.patch, clean)
        given = memory.held.settle(clean, computed, place, self._shares[self.step])
        if self._token_mask is not None:
            # outside of the inpainting mask the sampler puts its own latent: what was predicted there is never used
            rows = (self._token_mask > 0).repeat(clean.shape[0] // self._token_mask.shape[0], 1)
            memory.held.forgive(on_latent(rows, self.grid, self.patch, clean))
        return given

    def doing(self) -> Doing:
        """What was done since this was last asked."""
        before, self._told = self._told, self.tally.pruned_calls
        return "pruned" if self._told > before else "full"

    def disable(self, reason: str) -> None:
        """Run in full from here on, say so once, and free what is kept."""
        if self.disabled is None:
            logger.warning("CAT Pruning: the rest of this run is not pruned: %s", reason)
            self.disabled = reason
        self.cache.clear()

    def reset(self) -> None:
        """Free everything that takes memory. The tally stays."""
        self.maps = None
        self.cache.clear()
        self.evaluation, self._previous = Evaluation(), Evaluation()
        self._selector.reset()
        self._token_mask = self.mask = None

    def _keep(self, call: TransformerCall, uuids: Conditions, memory: CallMemory, model: Any) -> None:
        if call.selected is None and self.disabled is None:
            self.cache.put(uuids, memory)
        noise = self._shown(memory, model).chunk(len(uuids))
        self.evaluation.noise |= {one: (rows, call.selected is None) for one, rows in zip(uuids, noise, strict=True)}
        self.tally.most_bytes = max(self.tally.most_bytes, self.cache.nbytes())
        if call.selected is not None and self.maps is not None:
            self.maps.add(self.step, call.selected, self.tokens, len(uuids))

    def _shown(self, memory: CallMemory, model: Any) -> Tensor:
        """What the selector sees of a call, `[R, N, D]`: clean latents where these are held, and outputs otherwise."""
        if memory.held is not None:
            return by_token(memory.held.clean, self.grid, self.patch)
        assert memory.output is not None
        return self.method.family.noise(model, memory.output.flatten(1, -2)[:, : self.tokens])

    def _observe(self) -> None:
        """Show the selector what one condition gave in the evaluation before: a positive one, the same every time."""
        sigma, found = self._previous.sigma, self._previous.noise
        self._previous.noise = {}
        # A guider may name its conditions otherwise; then any of them is as good as another.
        sources = [uuid for uuid in (self._source, *(self.evaluation.positive or found)) if uuid in found]
        if not sources:
            return
        if sources[0] != self._source:
            self._source = sources[0]
            self._selector.reset()
        noise, full = found[self._source]
        self._selector.observe(noise, full=full, again=sigma == self._observed_sigma, sigma=sigma)
        self._observed_sigma = sigma

    def _choose(self) -> Tensor | None:
        now, before = self.evaluation, self._previous
        released = self._released()
        now.why_full = self.disabled or self.method.schedule.why_full(self.step, self.steps) or ""
        if not now.why_full and not self._selector.ready:
            now.why_full = "two full evaluations have to come first"
        if now.why_full:
            return None
        if released is None and before.selected is not None and before.sigma == now.sigma:
            return before.selected
        if released is not None and int(released.sum(dim=1).amax()) > self.method.selection.kept(self.tokens):
            now.why_full = "the mask set more tokens free than a step computes"
            return None
        chosen = self._selector.choose(released)
        now.waited = self._selector.waited
        return chosen

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
