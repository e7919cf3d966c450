"""One attention block in one model call: where its tokens are dropped, and how they come back."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...atedm_core.tokens import EvenOrder, TokenSubset
from ...atedm_core.unet.ranking import (
    LayerAttention,
    RankTokens,
    choose_stand_ins,
    rank_states,
    rank_tokens,
    select_tokens,
)
from ...atedm_core.unet.recovery import recover
from ...atedm_core.unet.settings import PrunePoint, PruneSettings
from ...atedm_core.unet.temporal import TokenUpdates, recover_with_own
from .attention_view import AttentionView
from .full_grid import Options, TokenGrid, append_patch, on_full_grid

Remembered = tuple[Tensor, TokenSubset]
"""An earlier ranking of the same conditions that still serves: its scores `[B, N]`, and what was chosen by it."""


class PruningPass:
    """Runs the layers of one attention block, dropping tokens at the point that the settings and the memory allow.

    Attributes:
        point: where tokens are dropped in this call.
        scores: `[B, N]` of the ranking made in this call, or remembered.
        tokens: the token grid; its subset is set once tokens have been dropped.
        updates: what is remembered of the tokens for temporal recovery, with this call's updates once `run` has
            returned; `None` where nothing is.
    """

    def __init__(
        self,
        settings: PruneSettings,
        keep: int,
        grid: tuple[int, int],
        layers: int,
        remembered: Remembered | None,
        updates: TokenUpdates | None = None,
        rank: RankTokens = rank_tokens,
        order: EvenOrder | None = None,
    ) -> None:
        self._settings = settings
        self._rank_tokens = rank
        self._keep = keep
        self._grid = grid
        self._order = order
        self._remembered = remembered
        self._before: Tensor | None = None
        self._start: Tensor | None = None
        self._view: AttentionView | None = None
        self.tokens = TokenGrid()
        self.scores: Tensor | None = None
        self.updates = updates
        self.point: PrunePoint = settings.point(layers, remembered=remembered is not None)

    @property
    def subset(self) -> TokenSubset:
        """What was kept; there once `run` has returned."""
        assert self.tokens.subset is not None
        return self.tokens.subset

    @property
    def ranked(self) -> bool:
        """Whether this call ranks tokens by their attention."""
        return self._remembered is None and self._settings.ranks_by_attention

    @property
    def _needs_attention_to_stand_in(self) -> bool:
        return self._remembered is None and self.point != "block start" and self._settings.stand_in == "attention"

    def run(self, layers: Any, hidden: Tensor, contexts: list[Tensor], options: Options) -> Tensor:
        """All layers of the block, and every token back on the grid: `[B, N, C]` -> `[B, N, C]`."""
        if self.updates is not None and self._settings.prune_from == "block start":
            # Updates count from there, though a call that ranks drops its tokens later, after layers that may add to
            # their input in place.
            self._start = hidden if self.point == "block start" else hidden.clone()
        if self.point == "block start":
            hidden = self._drop(hidden)
        for index, layer in enumerate(layers):
            options["block_index"] = index
            layer_options = on_full_grid(options, index, self.tokens)
            if index == 0:
                layer_options = self._for_first_layer(layer, hidden, contexts[0], layer_options)
            hidden = layer(hidden, context=contexts[index], transformer_options=layer_options)
            if index == 0 and self.tokens.subset is None:
                hidden = self._drop(hidden)
        assert self._before is not None
        if self.updates is not None:
            full, self.updates = recover_with_own(self.subset, self._before, hidden, self.updates, self._start)
            return full
        return recover(self._settings.recovery, self.subset, self._before, hidden, self._grid)

    def _for_first_layer(self, layer: Any, hidden: Tensor, context: Tensor, options: Options) -> Options:
        if self.ranked or self._needs_attention_to_stand_in:
            self._view = AttentionView(layer, hidden, context, self._settings.ranking == "cross-attention")
            options = self._view.watch(options)
        if self.point == "inside first layer":
            options = append_patch(options, "middle_patch", self._drop)
        elif self._view is not None and self._settings.needs_only_self_attention:
            options = append_patch(options, "middle_patch", self._rank)
        return options

    def _rank(self, hidden: Tensor, extra_options: Options) -> Tensor:
        """Rank as soon as it can be: queries and keys that wait for the feed-forward's end add to its peak memory."""
        assert self._view is not None
        self.scores = self._rank_tokens(self._settings, self._view.attention(), self._grid)
        self._view = None
        return hidden

    def _drop(self, hidden: Tensor, extra_options: Options | None = None) -> Tensor:
        attention = None if self._view is None else self._view.attention()
        # The view holds the first layer's queries and keys; the later layers need that memory.
        self._view = None
        subset = self._choose(hidden, attention)
        self._before = hidden
        self.tokens.subset = subset
        return subset.gather(hidden)

    def _choose(self, hidden: Tensor, attention: LayerAttention | None) -> TokenSubset:
        if not self._settings.ranks_by_attention:
            self.scores = rank_states(self._settings, hidden, self._grid, self._order)
        elif self._remembered is not None:
            self.scores, subset = self._remembered
            if subset.kept == self._keep and self.updates is None:
                return subset
        elif attention is not None and self.scores is None:
            self.scores = self._rank_tokens(self._settings, attention, self._grid)
        assert self.scores is not None
        age = None if self.updates is None else self.updates.age
        subset = select_tokens(self._settings, self.scores, self._keep, self._grid, age, self._order)
        return choose_stand_ins(self._settings, subset, self._grid, hidden, attention)


def run_all_tokens(
    layers: Any, hidden: Tensor, contexts: list[Tensor], options: Options, point: PrunePoint
) -> tuple[Tensor, TokenUpdates]:
    """All layers on all tokens, to the bit as the host runs them, and the update that every token had from `point` on.

    Args:
        layers: of one attention block.
        hidden: `[B, N, C]`.
        contexts: text for every layer.
        options: the host's.
        point: where tokens are dropped in the calls that do.
    """
    # A copy: ComfyUI's layers may add to their input in place.
    before = hidden.clone() if point == "block start" else None

    def look(seen: Tensor, extra_options: Options) -> Tensor:
        nonlocal before
        before = seen.clone()
        return seen

    for index, layer in enumerate(layers):
        options["block_index"] = index
        inside = index == 0 and point == "inside first layer"
        layer_options = append_patch(options, "middle_patch", look) if inside else options
        hidden = layer(hidden, context=contexts[index], transformer_options=layer_options)
        if before is None:
            before = hidden.clone()
    assert before is not None
    return hidden, TokenUpdates.of_all(before, hidden)
