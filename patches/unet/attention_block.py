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
from .pruning_pass import PruningPass, Remembered, run_whole
from .rank_memory import join
from .run import OBSERVERS_KEY, RUN_KEY, PruneEvent, PruneRun, tally
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
    elif run is None or block is None or not _is(block, layer) or run.sigma(transformer_options) is None:
        out = layer(x, context, transformer_options)
    else:
        out = _run_block(layer, x, context, transformer_options, run, block)
    # The host counts attention blocks here, and IP-Adapter reads the count.
    if "transformer_index" in transformer_options:
        transformer_options["transformer_index"] += 1
    return out


def _run_block(
    layer: SpatialTransformer, x: Tensor, context: Any, options: Options, run: PruneRun, block: AttentionBlock
) -> Tensor:
    sigma = run.sigma(options)
    assert sigma is not None
    progress = run.progress_at(sigma)
    grid = (x.shape[-2], x.shape[-1])
    tokens = grid[0] * grid[1]
    keep = run.keep(tokens, block, progress)
    uuids = _conditions(options, x.shape[0])
    contexts = context if isinstance(context, list) else [context] * block.layers
    samples, context_tokens = x.shape[0] // len(uuids), contexts[0].shape[1]
    if keep == tokens:
        run.record(uuids, block, tally(block, samples, tokens, keep, context_tokens), progress)
        if not run.remembers_updates(block):
            return layer(x, context, options)
        return _run_whole(layer, x, contexts, options, run, block, sigma, uuids)
    on_grid = {
        "self_on_grid": touches_self_attention(options, block.layers - 1),
        "cross_on_grid": touches_cross_attention(options, block.layers - 1),
    }
    options["activations_shape"] = list(x.shape)
    hidden = _enter(layer, x)
    slots = _visit(run, block, uuids, hidden, grid, sigma)
    out = []
    groups = _group(run, block, uuids, samples, grid, sigma, x.device)
    for members, remembered in groups:
        part = _Part(members, samples) if len(groups) > 1 else None
        own_contexts = contexts if part is None else [part.rows(text) for text in contexts]
        own_options = options if part is None else part.options(options)
        own_hidden = hidden if part is None else part.rows(hidden)
        own_slots = [slots[member] for member in members] if slots else []
        updates = _recall(own_slots, own_hidden)
        order = run.even_order(grid, x.device)
        passed = PruningPass(run.method.settings, keep, grid, block.layers, remembered, updates, run.method.rank, order)
        out.append(passed.run(layer.transformer_blocks, own_hidden, own_contexts, own_options))
        own_uuids = [uuids[member] for member in members]
        run.remember(own_uuids, block, passed, grid, sigma)
        _store(own_slots, passed.updates)
        spent = tally(block, samples, tokens, keep, context_tokens, point=passed.point, **on_grid)
        run.record(own_uuids, block, spent, progress)
        _tell_observers(options, PruneEvent(block, progress, grid, passed.subset, tuple(own_uuids)))
    hidden = out[0] if len(out) == 1 else _in_order(out, [members for members, _ in groups], samples)
    return _leave(layer, hidden, x)


def _run_whole(
    layer: SpatialTransformer,
    x: Tensor,
    contexts: list[Tensor],
    options: Options,
    run: PruneRun,
    block: AttentionBlock,
    sigma: float,
    uuids: list[Hashable],
) -> Tensor:
    """The block on all tokens, whose updates are remembered: they cost nothing more here."""
    options["activations_shape"] = list(x.shape)
    hidden = _enter(layer, x)
    slots = _visit(run, block, uuids, hidden, (x.shape[-2], x.shape[-1]), sigma)
    point = run.method.settings.point(block.layers, remembered=True)
    hidden, updates = run_whole(layer.transformer_blocks, hidden, contexts, options, point)
    _store(slots, updates)
    return _leave(layer, hidden, x)


def _visit(
    run: PruneRun,
    block: AttentionBlock,
    uuids: list[Hashable],
    hidden: Tensor,
    grid: tuple[int, int],
    sigma: float,
) -> list[Slot]:
    """Where each condition's updates are remembered; nowhere, if they are not."""
    if not run.remembers_updates(block):
        return []
    rows = zip(uuids, hidden.chunk(len(uuids)), strict=True)
    return [run.updates.visit(uuid, block.name, own, grid, sigma) for uuid, own in rows]


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


@dataclass(frozen=True)
class _Part:
    """Some of the conditions of one model call, as a model call of their own."""

    members: list[int]
    samples: int

    def rows(self, x: Tensor) -> Tensor:
        return torch.cat([x[member * self.samples : (member + 1) * self.samples] for member in self.members])

    def options(self, options: Options) -> Options:
        """Foreign patches split the batch by these lists."""
        lists = {
            name: [options[name][member] for member in self.members]
            for name in ("uuids", "cond_or_uncond")
            if options.get(name)
        }
        return {**options, **lists}


def _group(
    run: PruneRun,
    block: AttentionBlock,
    uuids: list[Hashable],
    samples: int,
    grid: tuple[int, int],
    sigma: float,
    device: torch.device,
) -> list[tuple[list[int], Remembered | None]]:
    """Positions of the conditions that can run together, with what is remembered of them.

    They run together unless some have a ranking to use and others have none, or their rankings kept different numbers
    of tokens: what a condition gets must not depend on which others the host happened to put beside it.
    """
    if not run.remembers:
        return [(list(range(len(uuids))), None)]
    found = [run.memory.recall(uuid, block.name, samples, grid, sigma, device) for uuid in uuids]
    groups: list[tuple[list[int], Remembered | None]] = []
    kept = [0 if ranking is None else ranking.subset.kept for ranking in found]
    for count in sorted(set(kept)):
        members = [position for position, own in enumerate(kept) if own == count]
        rankings = [ranking for position in members if (ranking := found[position]) is not None]
        groups.append((members, join(rankings) if rankings else None))
    return groups


def _in_order(parts: list[Tensor], members: list[list[int]], samples: int) -> Tensor:
    """Rows of several groups of conditions, back in the order of the conditions."""
    chunks = {
        member: rows
        for part, group in zip(parts, members, strict=True)
        for member, rows in zip(group, part.split(samples), strict=True)
    }
    return torch.cat([chunks[member] for member in sorted(chunks)])


def _tell_observers(options: Options, event: PruneEvent) -> None:
    for observer in options.get(OBSERVERS_KEY, ()):
        observer.pruned(event)


def _enter(layer: SpatialTransformer, x: Tensor) -> Tensor:
    """Feature map `[B, C, h, w]` to hidden states `[B, h * w, width]`, with the block's own norm and projection."""
    normed = layer.norm(x)
    if layer.use_linear:
        return layer.proj_in(normed.flatten(2).transpose(1, 2).contiguous())
    return layer.proj_in(normed).flatten(2).transpose(1, 2).contiguous()


def _leave(layer: SpatialTransformer, hidden: Tensor, x: Tensor) -> Tensor:
    """Hidden states back to a feature map, with the block's own projection and residual."""
    height, width = x.shape[-2:]
    if layer.use_linear:
        hidden = layer.proj_out(hidden)
    out = hidden.transpose(1, 2).unflatten(2, (height, width)).contiguous()
    if not layer.use_linear:
        out = layer.proj_out(out)
    return out + x
