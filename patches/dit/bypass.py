"""When CAT Pruning leaves a run or a model call alone, and why, in words for the log."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import WrappersMP, get_wrappers_with_key

from .families import Family
from .run import CATRun

_COMPILE_KEY = "torch.compile"


def call_reason(
    run: CATRun, model: Any, x: Any, control: Any, transformer_options: dict[str, Any], extra: dict[str, Any]
) -> str | None:
    """Why a model call has to run as it is, `None` if nothing stands against pruning it.

    Args:
        run: the run.
        model: the diffusion model that will be called.
        x: its input.
        control: residuals of a ControlNet, `None` without one.
        transformer_options: of the call.
        extra: further inputs of the call, by name.
    """
    family, conditions = run.method.family, len(transformer_options.get("uuids") or ())
    if conditions == 0:
        return "a call without conditions"
    swapped = swapped_blocks(run, model)
    if swapped is not None:
        return f"{swapped} changes the model's blocks"
    if compiled(family, model, transformer_options):
        return "the model is compiled (torch.compile)"
    if "multigpu_thread_device" in transformer_options:
        return "the conditions are spread over several GPUs"
    if extra.get("ref_latents"):
        return "reference images are in the prompt"
    if tuple(x.shape[-2:]) != run.latent[-2:] or x.shape[0] != conditions * run.latent[0]:
        return "a condition covers a part of the picture only"
    foreign = foreign_patch(transformer_options)
    if foreign is not None:
        return f"{foreign} changes the model's blocks"
    if control is not None and not family.control:
        return f"a ControlNet is on, which is not supported with {family.name}"
    return family.unsupported(model)


def swapped_blocks(run: CATRun, model: Any) -> str | None:
    """The module of whoever put other blocks in place of the model's own while it is called, `None` if nobody did.

    A first-block cache does that, for as long as one model call takes.
    """
    family = run.method.family
    found = family.block_kinds(model) if type(model) is family.kind else run.block_kinds
    if found == run.block_kinds:
        return None
    return next((kind.__module__ for kind in found if kind not in run.block_kinds), "another node")


def foreign_patch(transformer_options: dict[str, Any]) -> str | None:
    """The module of a patch that another node put on the model's blocks, `None` if there is none.

    Such a patch sees the tokens that a block runs on, and counts on all of them.
    """
    lists = transformer_options.get("patches", {}).values()
    tables = transformer_options.get("patches_replace", {}).values()
    patches = [patch for one in lists for patch in one] + [patch for one in tables for patch in one.values()]
    return None if not patches else str(getattr(patches[0], "__module__", None) or type(patches[0]).__module__)


def compiled(family: Family, model: Any, transformer_options: dict[str, Any]) -> bool:
    """Whether the model that will be called is compiled, or stands in for the one that CAT Pruning knows."""
    wrapped = get_wrappers_with_key(WrappersMP.APPLY_MODEL, _COMPILE_KEY, transformer_options)
    kind: type = type(model)
    if wrapped or kind is not family.kind:
        return True
    modules: tuple[Any, ...] = (model, *family.blocks(model)[:1], model.get_submodule(family.final))
    return any(hasattr(one, "_orig_mod") or getattr(one, "_compiled_call_impl", None) is not None for one in modules)


def run_reason(run: CATRun, noise: Any) -> str | None:
    """Why nothing of a whole run can be pruned, `None` if something can."""
    selection, schedule = run.method.selection, run.method.schedule
    if noise.ndim not in (4, 5) or (noise.ndim == 5 and noise.shape[2] != 1):
        return f"the latent is no single picture: its shape is {tuple(noise.shape)}"
    if selection.kept(run.tokens) >= run.tokens:
        return f"keep_ratio {selection.keep_ratio:g} keeps all {run.tokens} tokens. Lower it to save anything."
    if schedule.pruned_steps(run.steps) == 0:
        warmup = schedule.warmup_steps(run.steps)
        return (
            f"all {run.steps} steps of this run are full ({warmup} of them to warm up). Give the sampler more steps, "
            "or lower warmup, least_full_steps or last_full_steps, or refresh less often."
        )
    return None


def hooked_conditions(guider: Any) -> bool:
    """Whether a condition changes the model's weights in the course of the run (scheduled LoRAs and the like)."""
    conditions = getattr(guider, "conds", {}) or {}
    return any(one.get("hooks") is not None for listed in conditions.values() for one in listed or ())
