"""Puts CAT Pruning on a ComfyUI MODEL, and gives every sampling run a state of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_management
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...atedm_core.dit.expected_error import SelectorFactory, selector_of
from ...atedm_core.dit.schedule import CATSchedule, settled_steps
from ...atedm_core.dit.selection import CATSelection
from ..host.finished_runs import report_is_wanted
from ..host.kept_counts import KeptCounts
from ..host.progress import percent_to_sigma_on_cpu
from ..host.run_scope import Asked, Ended, applied, put_on
from ..steps.samplers import sampler_kind
from .bypass import call_reason, compiled, hooked_conditions, run_reason
from .call import OwnError, TransformerCall, attached, own_code, selected_control, with_override
from .families import FAMILIES, family_of
from .kv_cache import CallMemory, Conditions
from .recording import explain_nothing_pruned, record_of, summarize
from .run import CATMethod, CATRun

logger = logging.getLogger(__name__)

KEY = "cat_pruning"


def apply_cat(
    model: Any, selection: CATSelection, schedule: CATSchedule, *, select: SelectorFactory = selector_of
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
            "Take CAT Pruning Apply out of this model's path: for SDXL, SD 1.x and SD 2.x use AT-EDM Apply, for any "
            f"model AT-EDM Auto or Step Forecast Apply. CAT Pruning Apply works on transformers: {supported}. This "
            f"model is {type(model.model).__name__} ({type(diffusion_model).__name__})."
        )
    method = CATMethod(selection, schedule, family, select)
    return put_on(model, KEY, method, lambda asked: begin(method, asked), hang_in, conclude)


def applied_cat(model: Any) -> CATMethod | None:
    """What `apply_cat` put on a MODEL or on one that it was cloned from; `None` if nothing."""
    return applied(model, KEY, CATMethod)


def begin(method: CATMethod, asked: Asked) -> CATRun:
    """State of a run."""
    model = asked.guider.model_patcher.get_model_object("diffusion_model")
    shape = tuple(asked.noise.shape)
    # All that is read of the model is read here: while it is called, another node may have swapped its blocks.
    family, grid = method.family, method.family.grid(model, asked.latent)
    read = (
        grid,
        family.side(model),
        family.layout(model, grid[0] * grid[1]),
        family.structure(model),
        family.attentions(model),
        family.block_kinds(model),
    )
    flow = isinstance(asked.guider.model_patcher.get_model_object("model_sampling"), CONST)
    schedule = replace(method.schedule, settled_steps=settled_steps(asked.sigmas, flow))
    sampler = sampler_kind(asked.sampler)
    run = CATRun(replace(method, schedule=schedule), asked.sigmas, shape, *read, sampler, flow)
    run.nothing_because = run_reason(run, asked.noise)
    if report_is_wanted() and run.nothing_because is None:
        run.maps = KeptCounts()
    return run


def hang_in(run: CATRun, asked: Asked, model_options: dict[str, Any]) -> None:
    """Put it into the run's own options."""
    if run.nothing_because is not None:
        if run.steps > 0:
            level = logging.INFO if run.method.selection.keep_ratio >= 1.0 else logging.WARNING
            logger.log(level, "CAT Pruning: nothing will be pruned: %s", run.nothing_because)
        return
    options = model_options["transformer_options"]
    # Innermost of all wrappers: what others leave out never comes here, and what they change is what is seen.
    add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _predict_noise(run), options)
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _apply_model(run), options)
    if "denoise_mask_function" in model_options:
        model_options["denoise_mask_function"] = _watched_mask(run, model_options["denoise_mask_function"])


def conclude(run: CATRun, asked: Asked, seconds: float | None) -> Ended:
    """Say what a run did."""
    if run.nothing_because is None:
        logger.info("%s", summarize(run, finished=seconds is not None))
    if seconds is None or run.steps < 1:
        return Ended()
    off = run.method.selection.keep_ratio >= 1.0
    why = None if run.tally.pruned_calls else explain_nothing_pruned(run)
    to_sigma = percent_to_sigma_on_cpu(asked.guider.model_patcher.get_model_object("model_sampling"))
    return Ended(record_of(run, seconds, to_sigma, asked.work), why, off)


def _predict_noise(run: CATRun) -> Any:
    def wrapper(executor: Any, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        with _or_full(run), own_code():
            if run.disabled is None and hooked_conditions(guider):
                run.disable("conditions change the model's weights as the run goes on")
            positive = (getattr(guider, "conds", None) or {}).get("positive") or ()
            run.begin(float(timestep.max()), [one.get("uuid") for one in positive])
        return executor(x, timestep, *args, **kwargs)

    return wrapper


def _apply_model(run: CATRun) -> Any:
    family = run.method.family

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
        model, uuids = executor.class_obj.diffusion_model, tuple(options.get("uuids") or ())

        def asked(call: TransformerCall, control: Any, options: dict[str, Any]) -> Any:
            with attached(family, model, call):
                result = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
            with _or_full(run), own_code():
                result = run.settle(call, result)
                run.finish(call, uuids, model, x.shape[0], 0 if c_crossattn is None else c_crossattn.shape[1])
            return result

        with _or_full(run):
            with own_code():
                call = _call(run, model, uuids, x, control, options, kwargs)
                own_control, own_options = control, options
                if call.selected is not None and control is not None:
                    own_control = selected_control(control, call.selected)
                if family.attend is None and call.sees_attention:
                    own_options = with_override(options, call)
            return asked(call, own_control, own_options)
        # an error of its own: this time without anything that could go wrong again
        return asked(TransformerCall(None, run.layout, why_full=run.disabled or "", ran=True), control, options)

    return wrapper


@contextmanager
def _or_full(run: CATRun) -> Iterator[None]:
    """Goes on after an error of this pack's own code, with the rest of the run in full."""
    try:
        yield
    except OwnError as error:
        logger.debug("CAT Pruning: an error of its own", exc_info=error.__cause__)
        run.disable(f"CAT Pruning failed ({error}); please report it")


def _call(
    run: CATRun, model: Any, uuids: Conditions, x: Any, control: Any, options: dict[str, Any], extra: dict[str, Any]
) -> TransformerCall:
    """How to run the model: on selected tokens if the step and the memory allow it, recorded, or left as it is."""
    family, why_full = run.method.family, run.disabled
    if why_full is None and not run.evaluation.answered.isdisjoint(uuids):
        why_full = "another node asked for the same condition again"
    if why_full is None:
        why_full = call_reason(run, model, x, control, options, extra)
        if why_full is not None:
            run.tally.passed[why_full] += 1
            run.cache.drop(uuids)
    if why_full is not None:
        return TransformerCall(None, run.layout, why_full=why_full, ran=compiled(family, model, options))
    expected = run.attentions
    selected = run.selected()
    # asked for before anything is joined: what cannot be joined is dropped
    held = run.cache.held_of(uuids)
    memory = None if selected is None else run.cache.of(uuids)
    if selected is not None and memory is not None and memory.whole(expected):
        waited = run.evaluation.waited
        return TransformerCall(
            memory,
            run.layout,
            selected.repeat(len(uuids), 1),
            waited=None if waited is None else waited.repeat(len(uuids), 1),
        )
    run.cache.drop(uuids)
    steps, step, schedule = run.steps, run.step, run.method.schedule
    return TransformerCall(
        # what was left out before is made up for in a full step too
        CallMemory(earlier=held),
        run.layout,
        why_full=run.evaluation.why_full or "nothing was kept of these conditions yet",
        record_attention=schedule.full_before_pruned(step, steps) or not schedule.is_full(step, steps),
        fits=lambda nbytes: _lack_of_memory(nbytes * expected, x.device),
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


def _watched_mask(run: CATRun, function: Any) -> Any:
    """The inpainting mask's function, telling the run which mask it gave."""

    def watched(*args: Any, **kwargs: Any) -> Any:
        run.mask = function(*args, **kwargs)
        return run.mask

    return watched
