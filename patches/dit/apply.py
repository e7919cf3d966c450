"""Puts CAT Pruning on a ComfyUI MODEL, and gives every sampling run a state of its own."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...atedm_core.dit.schedule import CATSchedule
from ...atedm_core.dit.selection import CATSelection, SelectorFactory, TokenSelector
from ..host.finished_runs import keep_record, report_is_wanted
from ..host.kept_counts import KeptCounts
from ..host.progress import percent_to_sigma_on_cpu
from ..host.run_scope import Asked, applied, put_on
from .bypass import call_reason, hooked_conditions, run_reason
from .call import TransformerCall, attached, selected_control, with_override
from .families import FAMILIES, family_of
from .kv_cache import CallMemory
from .recording import record_of
from .run import CATMethod, CATRun
from .summary import summarize

logger = logging.getLogger(__name__)

KEY = "cat_pruning"


def apply_cat(
    model: Any, selection: CATSelection, schedule: CATSchedule, *, select: SelectorFactory = TokenSelector
) -> Any:
    """A clone of `model` that computes only some of the image tokens in most steps. The model given is left as it is.

    Applied to a model that has CAT Pruning already, it replaces what was there.

    Args:
        model: a ComfyUI MODEL (ModelPatcher).
        selection: how tokens are chosen.
        schedule: which steps compute all of them.
        select: makes what chooses them; for controls.

    Raises:
        ValueError: the model is not a diffusion transformer of a supported kind.
    """
    diffusion_model = model.get_model_object("diffusion_model")
    family = family_of(diffusion_model)
    if family is None:
        supported = ", ".join(one.name for one in FAMILIES)
        raise ValueError(
            f"CAT Pruning cannot prune {type(model.model).__name__} ({type(diffusion_model).__name__}): it supports "
            f"{supported}. Connect one of these, or use AT-EDM Apply for SDXL and SD 1.x and 2.x."
        )
    method = CATMethod(selection, schedule, family, select)
    return put_on(model, KEY, method, lambda asked: _begin(method, asked), _hang_in, _conclude)


def applied_cat(model: Any) -> CATMethod | None:
    """What `apply_cat` put on a MODEL or on one that it was cloned from; `None` if nothing."""
    return applied(model, KEY, CATMethod)


def _begin(method: CATMethod, asked: Asked) -> CATRun:
    model = asked.guider.model_patcher.get_model_object("diffusion_model")
    shape = tuple(asked.noise.shape)
    run = CATRun(method, asked.sigmas, shape, method.family.grid(model, asked.latent), method.family.structure(model))
    run.nothing_because = run_reason(run, asked.noise)
    if report_is_wanted() and run.nothing_because is None:
        run.maps = KeptCounts()
    return run


def _hang_in(run: CATRun, asked: Asked, model_options: dict[str, Any]) -> None:
    if run.nothing_because is not None:
        if run.steps > 0:
            logger.warning("CAT Pruning: nothing will be pruned: %s", run.nothing_because)
        return
    options = model_options["transformer_options"]
    # Innermost of all wrappers: what others leave out never comes here, and what they change is what is seen.
    add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _predict_noise(run), options)
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _apply_model(run), options)
    if "denoise_mask_function" in model_options:
        model_options["denoise_mask_function"] = _watched_mask(run, model_options["denoise_mask_function"])


def _conclude(run: CATRun, asked: Asked, seconds: float | None) -> None:
    if run.nothing_because is None:
        logger.info("%s", summarize(run, finished=seconds is not None))
    if seconds is not None and run.steps > 0:
        sampling = asked.guider.model_patcher.get_model_object("model_sampling")
        to_sigma = percent_to_sigma_on_cpu(sampling)
        keep_record(run.method, record_of(run, seconds, to_sigma, asked.work))


def _predict_noise(run: CATRun) -> Any:
    def wrapper(executor: Any, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        if run.disabled is None and hooked_conditions(guider):
            _disable(run, "conditions change the model's weights as the run goes on")
        positive = (getattr(guider, "conds", None) or {}).get("positive") or ()
        run.begin(float(timestep.max()), [one.get("uuid") for one in positive])
        return executor(x, timestep, *args, **kwargs)

    return wrapper


def _apply_model(run: CATRun) -> Any:
    def wrapper(
        executor: Any,
        x: Any,
        t: Any,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Any:
        options = transformer_options or {}
        model = executor.class_obj.diffusion_model
        uuids = tuple(options.get("uuids") or ())

        def as_it_is(why: str | None) -> Any:
            text = 0 if c_crossattn is None else c_crossattn.shape[1]
            run.spend(uuids, x.shape[0], text, why)
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

        if run.disabled is not None or run.answered(uuids):
            return as_it_is(run.disabled or "another node asked for the same condition again")
        reason = call_reason(run, model, x, options, kwargs)
        if reason is None and control is not None and not run.method.family.control:
            reason = f"a ControlNet is on, which is not supported with {run.method.family.name}"
        if reason is not None:
            run.tally.passed[reason] += 1
            run.drop(uuids)
            return as_it_is(reason)
        call = _call(run, model, uuids, x.device)
        if call.selected is not None and control is not None:
            control = selected_control(control, call)
        if run.method.family.attend is None and call.sees_attention:
            options = with_override(options, call)
        with attached(run.method.family, model, call):
            result = as_it_is(call.why_full or None)
        call.finish(run.method.family.attentions(model))
        if call.refusal is not None:
            _disable(run, call.refusal)
        if call.selected is not None and run.maps is not None:
            run.maps.add(run.step, call.selected, run.tokens, len(uuids))
        run.answer(uuids, call.memory, model, pruned=call.selected is not None)
        return result

    return wrapper


def _call(run: CATRun, model: Any, uuids: tuple[Any, ...], device: Any) -> TransformerCall:
    """The call for these conditions: on selected tokens if the step and the memory allow it, else recorded."""
    expected = run.method.family.attentions(model)
    selected = run.selected()
    memory = run.memories.get(uuids)
    if selected is not None and memory is not None and memory.whole(expected):
        return TransformerCall(memory, run.tokens, selected.repeat(len(uuids), 1))
    run.drop(uuids)
    steps, step, schedule = run.steps, run.step, run.method.schedule
    needed = schedule.full_before_pruned(step, steps) or not schedule.is_full(step, steps)
    return TransformerCall(
        CallMemory(),
        run.tokens,
        why_full=run.why_full or "nothing was kept of these conditions yet",
        record_attention=needed,
        fits=lambda nbytes: _lack_of_memory(nbytes * expected, device),
    )


def _lack_of_memory(nbytes: int, device: Any) -> str | None:
    free = comfy.model_management.get_free_memory(device)
    reserve = 0 if comfy.model_management.is_device_cpu(device) else comfy.model_management.minimum_inference_memory()
    if nbytes + reserve <= free:
        return None
    return (
        f"keys and values take {nbytes / 2**30:.2f} GiB, and {max(0.0, free - reserve) / 2**30:.2f} GiB can be spared. "
        "Make fewer or smaller pictures at once, or free memory."
    )


def _disable(run: CATRun, reason: str) -> None:
    logger.warning("CAT Pruning: the rest of this run is not pruned: %s", reason)
    run.disable(reason)


def _watched_mask(run: CATRun, function: Any) -> Any:
    """The inpainting mask's function, telling the run which mask it gave."""

    def watched(*args: Any, **kwargs: Any) -> Any:
        run.mask = function(*args, **kwargs)
        return run.mask

    return watched
