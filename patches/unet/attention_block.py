"""The handler for one attention block: the host's own layers, on all tokens first and then on those that matter."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from torch import Tensor

from ...atedm_core.unet.choosing_flops import choosing_flops, filling_in_flops
from ...atedm_core.unet.flops import block_flops
from ...atedm_core.unet.pruned_cost import is_spared_for_its_cost, kept_in_block
from ...atedm_core.unet.structure import AttentionBlock
from ...report.record import Tally
from .compiled import is_plain
from .full_grid import Options
from .memory import Ranking
from .pruning_pass import PruningPass
from .run import OBSERVERS_KEY, RUN_KEY, PruneEvent, PruneRun
from .same_picture import Kept
from .structure import foreign_code


def attention_block_handler(
    layer: SpatialTransformer, x: Tensor, emb: Tensor, context: Any, transformer_options: Options, *host_arguments: Any
) -> Tensor:
    """What ComfyUI calls in place of an attention block, through its `forward_timestep_embed_patch`."""
    run: PruneRun | None = transformer_options.get(RUN_KEY)
    block = run.block(layer, transformer_options) if run is not None else None
    if isinstance(layer, SpatialVideoTransformer):
        _, *video_arguments = host_arguments
        out = layer(x, context, *video_arguments, transformer_options)
    elif run is None or block is None or (sigma := run.sigma(transformer_options)) is None:
        out = layer(x, context, transformer_options)
    else:
        contexts = context if isinstance(context, list) else [context] * block.layers
        uuids = _conditions(transformer_options, len(x))
        place = (block, (x.shape[-2], x.shape[-1]), sigma, run.progress_at(sigma))
        call = _Call(run, *place, len(x) // len(uuids), uuids, contexts, transformer_options)
        out = _run_block(call, layer, x, context)
    # The host counts attention blocks here, and IP-Adapter reads the count.
    if "transformer_index" in transformer_options:
        transformer_options["transformer_index"] += 1
    return out


@dataclass(frozen=True)
class _Call:
    """One attention block in one model call: `samples` for each of the conditions, one of `contexts` for each layer."""

    run: PruneRun
    block: AttentionBlock
    grid: tuple[int, int]
    sigma: float
    progress: float
    samples: int
    uuids: list[Hashable]
    contexts: list[Tensor]
    options: Options

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def record(self, kept: int, choosing: int = 0, **how: Any) -> None:
        """Add what each condition spent, `choosing` tokens included; `how` is what else `block_flops` takes."""
        samples, tokens, text = self.samples, self.tokens, self.contexts[0].shape[1]
        full = samples * block_flops(self.block, tokens, context_tokens=text)
        flops = samples * (block_flops(self.block, tokens, kept, context_tokens=text, **how) + choosing)
        spent = Tally(1, int(kept < tokens), samples * tokens, samples * kept, full, flops)
        self.run.record(self.uuids, self.block, self.progress, spent, how.get("point"))

    def rows(self, x: Tensor, members: list[int]) -> Tensor:
        """Samples of some of the conditions."""
        chunks = x.chunk(len(self.uuids))
        return torch.cat([chunks[member] for member in members])

    def part(self, members: list[int]) -> _Call:
        """The call for some of the conditions; foreign patches split the batch by two lists in the options."""
        names = [name for name in ("uuids", "cond_or_uncond") if self.options.get(name)]
        options = {**self.options, **{name: [self.options[name][member] for member in members] for name in names}}
        contexts = [self.rows(text, members) for text in self.contexts]
        return replace(self, uuids=[self.uuids[member] for member in members], contexts=contexts, options=options)


def _run_block(call: _Call, layer: SpatialTransformer, x: Tensor, context: Any) -> Tensor:
    run, block, options = call.run, call.block, call.options
    method = run.method
    keep = kept_in_block(method.schedule, method.settings, block, call.tokens, call.progress)
    foreign = foreign_code(layer) if keep < call.tokens or run.compiled is not None else None
    if foreign is not None and keep < call.tokens:
        run.leave_alone(block, foreign)
        keep = call.tokens
    if keep == call.tokens:
        if is_spared_for_its_cost(method.schedule, method.settings, block, call.tokens, call.progress):
            run.not_worth_it.add(block.name)
        call.record(keep)
        if run.compiled is None or foreign is not None or not is_plain(options):
            return layer(x, context, options)
        hidden = _enter(layer, x)
        for inner, text in zip(layer.transformer_blocks, call.contexts, strict=True):
            hidden = run.compiled(inner, hidden, text, None)
        return _leave(layer, hidden, x)
    options["activations_shape"] = list(x.shape)
    hidden = _prune(call, layer.transformer_blocks, _enter(layer, x), keep)
    return _leave(layer, hidden, x)


def _prune(call: _Call, layers: Any, hidden: Tensor, keep: int) -> Tensor:
    """All layers with `keep` tokens from the pruning point on: `[B, N, C]` -> `[B, N, C]`."""
    form = (call.samples, hidden.device, call.grid)
    if (kept := call.run.same_picture.kept(call.uuids, call.block.name, form, keep)) is not None:
        return _prune_together(call, layers, hidden, keep, None, kept)
    done: dict[int, Tensor] = {}
    moment = (call.run.evaluations, call.sigma)
    for members, remembered in call.run.rankings.groups(call.uuids, call.block.name, form, moment):
        if len(members) == len(call.uuids):
            return _prune_together(call, layers, hidden, keep, remembered)
        out = _prune_together(call.part(members), layers, call.rows(hidden, members), keep, remembered)
        done.update(zip(members, out.chunk(len(members)), strict=True))
    return torch.cat([done[member] for member in sorted(done)])


def _prune_together(
    call: _Call, layers: Any, hidden: Tensor, keep: int, remembered: Ranking | None, known: Kept | None = None
) -> Tensor:
    """The same for conditions that run together; what there is to remember of them and to tell is passed on."""
    run, block, options, settings = call.run, call.block, call.options, call.run.method.settings
    order = run.even_order(call.grid, hidden.device)
    passed = PruningPass(
        settings, keep, call.grid, block.layers, remembered, run.method.rank, run.compiled, order, known
    )
    out = passed.run(layers, hidden, call.contexts, options)
    if known is None:
        form = (call.samples, hidden.device, call.grid)
        run.same_picture.note(call.uuids, block.name, form, Kept(passed.subset, passed.point))
    remembers = settings.ranks_by_attention and settings.rank_interval > 1
    if remembers and remembered is None and passed.scores is not None:
        run.rankings.store(call.uuids, block.name, Ranking(passed.scores, passed.subset, call.grid, call.sigma))
    whole = passed.whole
    on_grid = {"self_on_grid": "attn1" in whole, "cross_on_grid": "attn2" in whole}
    choosing = _choosing(call, keep, remembered, known)
    call.record(keep, choosing, point=passed.point, weighted=settings.weighs, **on_grid)
    if run.maps is not None:
        run.maps.add(block, call.grid, passed.subset, len(call.uuids))
    for observer in options.get(OBSERVERS_KEY, ()):
        observer.pruned(PruneEvent(block, call.progress, call.grid, passed.subset, tuple(call.uuids)))
    return out


def _choosing(call: _Call, keep: int, remembered: Ranking | None, known: Kept | None) -> int:
    """FLOPs of choosing `keep` tokens of one sample and filling the others in."""
    settings, width = call.run.method.settings, call.block.width
    if known is not None:
        return filling_in_flops(settings, width, call.tokens, keep)
    return choosing_flops(
        settings,
        width,
        call.tokens,
        keep,
        remembered=remembered is not None,
        stand_ins_too=remembered is not None and remembered.subset.kept == keep,
        context_tokens=call.contexts[0].shape[1],
    )


def _conditions(options: Options, samples: int) -> list[Hashable]:
    """Whose samples are in the batch, in order.

    A wrapper that saves memory may call the model for a part of the conditions and still name them all. Where they
    cannot be told apart, they count as one.
    """
    uuids = list(options.get("uuids") or [None])
    return uuids if samples % len(uuids) == 0 else [tuple(uuids)]


def _enter(layer: SpatialTransformer, x: Tensor) -> Tensor:
    """Feature map `[B, C, h, w]` to hidden states `[B, h * w, width]`, with the block's own norm and projection."""
    hidden = layer.norm(x) if layer.use_linear else layer.proj_in(layer.norm(x))
    hidden = hidden.flatten(2).transpose(1, 2).contiguous()
    return layer.proj_in(hidden) if layer.use_linear else hidden


def _leave(layer: SpatialTransformer, hidden: Tensor, x: Tensor) -> Tensor:
    """Hidden states back to a feature map, with the block's own projection and residual."""
    if layer.use_linear:
        hidden = layer.proj_out(hidden)
    out = hidden.transpose(1, 2).unflatten(2, x.shape[-2:]).contiguous()
    return (out if layer.use_linear else layer.proj_out(out)) + x
