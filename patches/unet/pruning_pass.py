"""One attention block in one model call: where its tokens are dropped, and how they come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...atedm_core.tokens import EvenOrder, TokenSubset
from ...atedm_core.unet.ranking import RankTokens, choose_stand_ins, rank_states, rank_tokens, select_tokens
from ...atedm_core.unet.recovery import recover
from ...atedm_core.unet.settings import PrunePoint, PruneSettings
from ...atedm_core.unet.similarity import Directions
from .attention_view import AttentionView
from .compiled import RunLayer, is_plain
from .full_grid import Options, TokenGrid, append_patch, on_full_grid
from .memory import Ranking
from .same_picture import Kept
from .weighted_attention import WeightedAttention


@dataclass(eq=False)
class PruningPass:
    """Runs the layers of one attention block, dropping tokens at the point that the settings and the memory allow.

    Attributes:
        keep: how many tokens stay of those on the `grid` (height, width).
        remembered: an earlier ranking of the same conditions that still serves.
        known: what another pass over the same picture kept: then nothing is chosen.
        scores: `[B, N]` of the ranking made in this call, or remembered.
        point: where tokens are dropped in this call.
        compiled: runs a layer that nobody looks into, where the model is compiled.
    """

    settings: PruneSettings
    keep: int
    grid: tuple[int, int]
    layers: int
    remembered: Ranking | None
    rank: RankTokens = rank_tokens
    compiled: RunLayer | None = None
    order: EvenOrder | None = None
    known: Kept | None = None
    scores: Tensor | None = None
    _before: Tensor | None = None
    _entered: Tensor | None = None
    _states: Directions | None = None
    _weighted: WeightedAttention | None = None
    _view: AttentionView | None = None

    def __post_init__(self) -> None:
        asked = self.settings.point(self.layers, remembered=self.remembered is not None)
        self.point: PrunePoint = asked if self.known is None else self.known.point
        self._tokens = TokenGrid()

    @property
    def subset(self) -> TokenSubset:
        """What was kept; there once `run` has returned."""
        assert self._tokens.subset is not None
        return self._tokens.subset

    @property
    def whole(self) -> set[str]:
        """Which of `attn1` and `attn2` ran on all tokens after some were dropped, for a foreign patch's sake."""
        return self._tokens.whole

    def run(self, layers: Any, hidden: Tensor, contexts: list[Tensor], options: Options) -> Tensor:
        """All layers of the block, and every token back on the grid: `[B, N, C]` -> `[B, N, C]`."""
        if self.point == "block start":
            hidden = self._drop(hidden)
        for index, layer in enumerate(layers):
            options["block_index"] = index
            layer_options = on_full_grid(options, index, self._tokens)
            if index == 0 and self.remembered is None and self.known is None:
                layer_options = self._watch(layer, hidden, contexts[0], layer_options)
            if index == 0 and self.point == "inside first layer":
                layer_options = append_patch(layer_options, "middle_patch", self._drop)
            hidden = self._run_layer(layer, hidden, contexts[index], layer_options)
            if index == 0 and self._tokens.subset is None:
                hidden = self._drop(hidden)
        assert self._before is not None
        settings, states = self.settings, self._states
        return recover(settings.recovery, self.subset, self._before, hidden, self.grid, self._entered, states)

    def _run_layer(self, layer: Any, hidden: Tensor, context: Tensor, options: Options) -> Tensor:
        weighted = self._weighted
        if self.compiled is not None and is_plain(options):
            channels = None if weighted is None else weighted.channels_for(layer.d_head, hidden)
            return self.compiled(layer, hidden, context, channels)
        options = options if weighted is None else weighted.weigh(options)
        out: Tensor = layer(hidden, context=context, transformer_options=options)
        return out

    def _watch(self, layer: Any, hidden: Tensor, context: Tensor, options: Options) -> Options:
        """Options with which the first layer's attention is seen, if it ranks tokens or finds their stand-ins."""
        settings = self.settings
        if not settings.ranks_by_attention and (self.point == "block start" or settings.stand_in != "attention"):
            return options
        self._view = AttentionView(layer, hidden, context, settings.ranking == "cross-attention")
        options = self._view.watch(options)
        rank_early = self.point != "inside first layer" and settings.needs_only_self_attention
        return append_patch(options, "middle_patch", self._rank) if rank_early else options

    def _rank(self, hidden: Tensor, extra_options: Options) -> Tensor:
        """Rank as soon as it can be: queries and keys that wait for the feed-forward's end add to its peak memory."""
        assert self._view is not None
        self.scores = self.rank(self.settings, self._view.attention(), self.grid)
        self._view = None
        return hidden

    def _drop(self, hidden: Tensor, extra_options: Options | None = None) -> Tensor:
        self._before = hidden
        self._tokens.subset = subset = self._choose(hidden)
        if not self.settings.weighs:
            return subset.gather(hidden)
        self._weighted = WeightedAttention(subset)
        if self.settings.merge == "weight":
            return subset.gather(hidden)
        self._entered = subset.mean(hidden)
        # A copy: ComfyUI's layers may add to their input in place.
        return self._entered.clone()

    def _choose(self, hidden: Tensor) -> TokenSubset:
        if self.known is not None:
            return self.known.subset
        attention = None if self._view is None else self._view.attention()
        # The view holds the first layer's queries and keys; the later layers need that memory.
        self._view = None
        settings, grid = self.settings, self.grid
        if self.remembered is not None and self.remembered.subset.kept == self.keep:
            self.scores = self.remembered.scores
            return self.remembered.subset
        states = Directions.of(hidden) if settings.compares_states else hidden
        if settings.recovery == "regression" and isinstance(states, Directions):
            self._states = states
        if not settings.ranks_by_attention:
            self.scores = rank_states(settings, states, self.keep, grid, self.order)
        elif self.remembered is not None:
            self.scores = self.remembered.scores
        elif attention is not None and self.scores is None:
            self.scores = self.rank(settings, attention, grid)
        assert self.scores is not None
        subset = select_tokens(settings, self.scores, self.keep, grid, self.order)
        return choose_stand_ins(settings, subset, grid, states, attention)
