"""The handler for one attention block: the host's own layers, on all tokens first and then on those that matter."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from torch import Tensor

from ...atedm_core.unet.structure import AttentionBlock
from ...atedm_core.unet.temporal import TokenUpdates
from .full_grid import Options, touches_cross_attention, touches_self_attention
from .pruning_pass import PruningPass, Remembered, run_all_tokens
from .rank_memory import join
from .run import OBSERVERS_KEY, RUN_KEY, PruneEvent, PruneRun
from .update_memory import Slot


def attention_block_handler(
    layer: SpatialTransformer,
    x: Tensor,
    emb: Tensor,
    context: Any,
    transformer_options: Options,
    *host_arguments: Any,
) -> Tensor:
    """What ComfyUI calls in place of an attention block, through its `forward_timestep_embed_patch`."""
    run: PruneRun | None = transformer_options.get(RUN_KEY)
    block = run.block(transformer_options) if run is not None else None
    if isinstance(layer, SpatialVideoTransformer):
        _, *video_arguments = host_arguments
        out = layer(x, context, *video_arguments, transformer_options)
    elif run is None or block is None or not _is(block, layer) or (sigma := run.sigma(transformer_options)) is None:
        out = layer(x, context, transformer_options)
    else:
        contexts = context if isinstance(context, list) else [context] * block.layers
        uuids = _conditions(transformer_options, len(x))
        call = _Call(run, block, uuids, len(x) // len(uuids), (x.shape[-2], x.shape[-1]), sigma, contexts)
        out = _run_block(layer, x, context, transformer_options, call)
    # The host counts attention blocks here, and IP-Adapter reads the count.
    if "transformer_index" in transformer_options:
        transformer_options["transformer_index"] += 1
    return out


@dataclass(frozen=True)
class _Call:
    """One attention block in one model call.

    Attributes:
        run: that the call belongs to.
        block: which.
        uuids: of the conditions in the batch, in order.
        samples: of each condition.
        grid: (height, width) in tokens.
        sigma: noise level.
        contexts: text for every layer.
    """

    run: PruneRun
    block: AttentionBlock
    uuids: list[Hashable]
    samples: int
    grid: tuple[int, int]
    sigma: float
    contexts: list[Tensor]

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def progress(self) -> float:
        return self.run.progress_at(self.sigma)

    def record(self, uuids: list[Hashable], kept: int, **how: Any) -> None:
        text = self.contexts[0].shape[1]
        self.run.record(uuids, self.block, self.progress, self.samples, self.tokens, kept, text, **how)

    def rows(self, x: Tensor, members: list[int]) -> Tensor:
        """Samples of some of the conditions."""
        chunks = x.chunk(len(self.uuids))
        return x if len(members) == len(chunks) else torch.cat([chunks[member] for member in members])

    def options(self, options: Options, members: list[int]) -> Options:
        """Options for some of the conditions; foreign patches split the batch by these lists."""
        names = [name for name in ("uuids", "cond_or_uncond") if options.get(name)]
        if len(members) == len(self.uuids):
            return options
        return {**options, **{name: [options[name][member] for member in members] for name in names}}

    def slots(self, hidden: Tensor) -> list[Slot]:
        """Where each condition's updates are remembered; nowhere, if they are not."""
        if not self.run.remembers_updates(self.block):
            return []
        rows = zip(self.uuids, hidden.chunk(len(self.uuids)), strict=True)
        return [self.run.updates.visit(uuid, self.block.name, own, self.grid, self.sigma) for uuid, own in rows]

    def groups(self, hidden: Tensor) -> list[tuple[list[int], Remembered | None]]:
        """Positions of the conditions that can run together, with the ranking that is remembered of them.

        They run together unless some have a ranking to use and others have none, or their rankings kept different
        numbers of tokens: what a condition gets must not depend on which others the host happened to put beside it.
        """
        if not self.run.remembers:
            return [(list(range(len(self.uuids))), None)]
        place = (self.block.name, self.samples, self.grid, self.sigma, hidden.device)
        found = [self.run.rankings.recall(uuid, *place) for uuid in self.uuids]
        kept = [0 if ranking is None else ranking.subset.kept for ranking in found]
        groups: list[tuple[list[int], Remembered | None]] = []
        for count in sorted(set(kept)):
            members = [position for position, own in enumerate(kept) if own == count]
            rankings = [ranking for position in members if (ranking := found[position]) is not None]
            groups.append((members, join(rankings) if rankings else None))
        return groups


def _run_block(layer: SpatialTransformer, x: Tensor, context: Any, options: Options, call: _Call) -> Tensor:
    run, block = call.run, call.block
    keep = run.keep(call.tokens, block, call.progress)
    if keep == call.tokens:
        call.record(call.uuids, keep)
        if not run.remembers_updates(block):
            return layer(x, context, options)
    options["activations_shape"] = list(x.shape)
    hidden = _enter(layer, x)
    slots = call.slots(hidden)
    if keep == call.tokens:
        point = run.method.settings.point(block.layers, remembered=True)
        hidden, updates = run_all_tokens(layer.transformer_blocks, hidden, call.contexts, options, point)
        _store(slots, updates)
    else:
        hidden = _prune(layer.transformer_blocks, hidden, options, call, slots, keep)
    return _leave(layer, hidden, x)


def _prune(layers: Any, hidden: Tensor, options: Options, call: _Call, slots: list[Slot], keep: int) -> Tensor:
    """All layers with `keep` tokens from the pruning point on: `[B, N, C]` -> `[B, N, C]`."""
    run, block = call.run, call.block
    on_grid = {
        "self_on_grid": touches_self_attention(options, block.layers - 1),
        "cross_on_grid": touches_cross_attention(options, block.layers - 1),
    }
    done: dict[int, Tensor] = {}
    for members, remembered in call.groups(hidden):
        own_slots = [slots[member] for member in members] if slots else []
        own_hidden = call.rows(hidden, members)
        updates = _recall(own_slots, own_hidden)
        how = run.method.rank, run.even_order(call.grid, hidden.device)
        passed = PruningPass(run.method.settings, keep, call.grid, block.layers, remembered, updates, *how)
        contexts = [call.rows(text, members) for text in call.contexts]
        out = passed.run(layers, own_hidden, contexts, call.options(options, members))
        uuids = [call.uuids[member] for member in members]
        if run.remembers and passed.ranked and passed.scores is not None:
            run.rankings.store(uuids, block.name, passed.scores, passed.subset, call.grid, call.sigma)
        _store(own_slots, passed.updates)
        call.record(uuids, keep, point=passed.point, **on_grid)
        if run.maps is not None:
            run.maps.add(block, call.grid, passed.subset, len(uuids))
        for observer in options.get(OBSERVERS_KEY, ()):
            observer.pruned(PruneEvent(block, call.progress, call.grid, passed.subset, tuple(uuids)))
        if len(members) == len(call.uuids):
            return out
        done.update(zip(members, out.chunk(len(members)), strict=True))
    return torch.cat([done[member] for member in sorted(done)])


def _recall(slots: list[Slot], hidden: Tensor) -> TokenUpdates | None:
    """What is remembered of the conditions that run together, as one batch in their order."""
    if not slots:
        return None
    rows = zip(slots, hidden.chunk(len(slots)), strict=True)
    return TokenUpdates.join([slot.updates or TokenUpdates.none(own) for slot, own in rows])


def _store(slots: list[Slot], updates: TokenUpdates | None) -> None:
    if updates is not None:
        for slot, own in zip(slots, updates.split(len(slots)), strict=True):
            slot.updates = own


def _is(block: AttentionBlock, layer: SpatialTransformer) -> bool:
    """Whether the module that is running is the block in its place: another pack may run a U-Net of its own inside."""
    return len(layer.transformer_blocks) == block.layers and layer.in_channels == block.channels


def _conditions(options: Options, samples: int) -> list[Hashable]:
    """Whose samples are in the batch, in order.

    A wrapper that saves memory may call the model for a part of the conditions and still name them all. Where they
    cannot be told apart, they count as one.
    """
    uuids = list(options.get("uuids") or [None])
    return uuids if samples % len(uuids) == 0 else [tuple(uuids)]


def _enter(layer: SpatialTransformer, x: Tensor) -> Tensor:
    """Feature map `[B, C, h, w]` to hidden states `[B, h * w, width]`, with the block's own norm and projection."""
    normed = layer.norm(x)
    if layer.use_linear:
        return layer.proj_in(normed.flatten(2).transpose(1, 2).contiguous())
    return layer.proj_in(normed).flatten(2).transpose(1, 2).contiguous()


def _leave(layer: SpatialTransformer, hidden: Tensor, x: Tensor) -> Tensor:
    """Hidden states back to a feature map, with the block's own projection and residual."""
    if layer.use_linear:
        hidden = layer.proj_out(hidden)
    out = hidden.transpose(1, 2).unflatten(2, x.shape[-2:]).contiguous()
    return (out if layer.use_linear else layer.proj_out(out)) + x
