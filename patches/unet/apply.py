"""Puts AT-EDM on a ComfyUI MODEL, and gives every sampling run a state of its own."""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...atedm_core.unet.ranking import RankTokens, rank_tokens
from ...atedm_core.unet.schedule import DSAPSchedule
from ...atedm_core.unet.settings import PruneSettings
from ..host.finished_runs import report_is_wanted
from ..host.progress import percent_to_sigma_on_cpu
from ..host.run_scope import Asked, Ended, applied, put_on
from ..host.version import why_blocks_cannot_be_pruned
from .attention_block import attention_block_handler
from .compiled import compiled_layers
from .planned import planned_otherwise
from .recording import record_of
from .run import OBSERVERS_KEY, RUN_KEY, Method, PruneRun
from .structure import describe_unet, supported_unet
from .summary import explain_nothing_pruned, planned_saving, summarize
from .token_maps import TokenMaps

logger = logging.getLogger(__name__)

KEY = "atedm"
_HANDLER_LIST = "forward_timestep_embed_patch"


def apply_atedm(model: Any, schedule: DSAPSchedule, settings: PruneSettings, *, rank: RankTokens = rank_tokens) -> Any:
    """A clone of `model` whose attention blocks run on fewer tokens. The model given is left as it is.

    Applied to a model that has AT-EDM already, it replaces what was there.

    Args:
        model: a ComfyUI MODEL (ModelPatcher).
        schedule: how much to prune, by progress and block.
        settings: how to choose tokens and to fill them in again.
        rank: ranks tokens where attention ranks; for controls.

    Raises:
        ValueError: the model is not a U-Net of a supported kind, the schedule names a level that it lacks, or the host
            is too old to prune it.
    """
    structure = describe_unet(supported_unet(model))
    schedule.check_levels(structure)
    schedule = schedule.for_model(structure)
    if settings.prune_from == "block start" and settings.fresh_share == 1.0:
        logger.warning(
            "AT-EDM: prune_from is 'block start', but tokens ranked by %s at every step can only be dropped inside the "
            "first layer, which saves less. Raise rank_interval above 1, or choose ranking 'redundancy'.",
            settings.ranking,
        )
    method = Method(schedule, settings, structure, rank)
    patched = put_on(model, KEY, method, lambda asked: begin(method, asked), hang_in, conclude)
    remove_handler(patched.model_options)
    if schedule.prune_ratio > 0:
        add_handler(patched)
    return patched


def applied_method(model: Any) -> Method | None:
    """What `apply_atedm` put on a MODEL or on one that it was cloned from; `None` if nothing."""
    return applied(model, KEY, Method)


def begin(method: Method, asked: Asked) -> PruneRun:
    """State of a run."""
    model_sampling = asked.guider.model_patcher.get_model_object("model_sampling")
    run = PruneRun(method, percent_to_sigma_on_cpu(model_sampling))
    run.compiled = compiled_layers(asked.guider.model_patcher)
    if otherwise := planned_otherwise(method.schedule.prune_ratio, asked.latent):
        logger.warning("AT-EDM: %s", otherwise)
    if report_is_wanted():
        run.maps = TokenMaps(method.structure, asked.latent)
    return run


def hang_in(run: PruneRun, asked: Asked, model_options: dict[str, Any]) -> None:
    """Put it into the run's own options."""

    def count(executor: Any, *args: Any, **kwargs: Any) -> Any:
        run.evaluations += 1
        run.same_picture.reset()
        return executor(*args, **kwargs)

    def enter(executor: Any, model: Any, conditions: Any, latent: Any, *args: Any, **kwargs: Any) -> Any:
        run.same_picture.enter(latent)
        return executor(model, conditions, latent, *args, **kwargs)

    options = model_options["transformer_options"]
    options[RUN_KEY] = run
    add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, count, options)
    add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, enter, options)
    _warn_of_unasked_handlers(model_options)
    _hide_from_compiler(model_options)


def conclude(run: PruneRun, asked: Asked, seconds: float | None) -> Ended:
    """Say what a run did."""
    planned = planned_saving(run, asked.sigmas, asked.latent)
    logger.info("%s", summarize(run, asked.steps, planned, finished=seconds is not None))
    ended = Ended()
    if seconds is not None and asked.steps > 0:
        off, reason = run.method.schedule.prune_ratio == 0, None
        if run.total().pruned_calls == 0:
            reason = explain_nothing_pruned(run)
            logger.log(logging.INFO if off else logging.WARNING, "AT-EDM: nothing was pruned: %s", reason.english())
        ended = Ended(record_of(run, asked, seconds, planned), reason, off)
    for observer in asked.options.get("transformer_options", {}).get(OBSERVERS_KEY, ()):
        observer.finished(run, asked.steps)
    return ended


def _handlers(model_options: dict[str, Any]) -> list[tuple[type, Any]]:
    return model_options.get("transformer_options", {}).get("patches", {}).get(_HANDLER_LIST, [])


def add_handler(patched: Any) -> None:
    """Have the host ask for attention blocks here; without a run in the options they run as they are.

    Raises:
        ValueError: the host is too old to ask.
    """
    why_not = why_blocks_cannot_be_pruned()
    if why_not is not None:
        raise ValueError(why_not)
    _warn_of_other_handlers(patched.model_options)
    patched.set_model_forward_timestep_embed_patch((SpatialTransformer, attention_block_handler))


def remove_handler(model_options: dict[str, Any]) -> None:
    """Take `add_handler` back."""
    handlers = _handlers(model_options)
    kept = [entry for entry in handlers if entry[1] is not attention_block_handler]
    if len(kept) < len(handlers):
        model_options["transformer_options"]["patches"][_HANDLER_LIST] = kept


def _hide_from_compiler(model_options: dict[str, Any]) -> None:
    """Keep torch.compile out of the handler, which chooses tokens; layers are compiled by themselves inside it.

    Only where the compiler is loaded at all, because loading it takes over a second.
    """
    if "torch._dynamo" not in sys.modules:
        return
    handlers = _handlers(model_options)
    for position, (kind, handler) in enumerate(handlers):
        if handler is attention_block_handler:
            handlers[position] = (kind, torch.compiler.disable(handler))


def _warn_of_unasked_handlers(model_options: dict[str, Any]) -> None:
    """ComfyUI asks the first handler of a kind only, and says nothing of the others."""
    behind = False
    for kind, handler in _handlers(model_options):
        if behind and issubclass(SpatialTransformer, kind):
            logger.warning(
                "AT-EDM: %s also handles attention blocks and is not asked, because AT-EDM comes first. "
                "Put AT-EDM Apply after the node that adds it to run that instead, or take one of the two out.",
                getattr(handler, "__module__", handler),
            )
        behind = behind or handler is attention_block_handler


def _warn_of_other_handlers(model_options: dict[str, Any]) -> None:
    for kind, handler in _handlers(model_options):
        if issubclass(SpatialTransformer, kind):
            logger.warning(
                "AT-EDM: %s handles attention blocks already and is asked first, so AT-EDM will not prune. "
                "Put AT-EDM Apply before the node that adds it.",
                getattr(handler, "__module__", handler),
            )
