"""Spends a wanted speed-up on forecasts and token pruning, once a run's sampler, noise schedule and steps are known."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP

from ...atedm_core.checks import check_range
from ...atedm_core.dit.flops import transformer_flops
from ...atedm_core.dit.schedule import settled_steps
from ...atedm_core.dit.selection import CATSelection
from ...atedm_core.dit.spending import FEWEST_TO_PRUNE, spend_on_transformer
from ...atedm_core.forecast_plan import ForecastSettings
from ...atedm_core.spending import SamplerGroup, Spending, spend
from ...atedm_core.unet.budget import share_left
from ...atedm_core.unet.schedule import DSAPSchedule
from ...atedm_core.unet.settings import DEFAULT_SETTINGS
from ...atedm_core.unet.structure import UNetStructure
from ...report.record import RunRecord, Wording, shown_settings
from ...report.words import reason
from ..dit import apply as tokens
from ..dit.families import Family, family_of
from ..dit.run import CATMethod, CATRun
from ..host.run_scope import Asked, Ended, applied, put_on
from ..host.sampling import model_of
from ..host.step_watch import Doing
from ..host.version import why_blocks_cannot_be_pruned
from ..unet import apply as pruning
from ..unet.run import Method, PruneRun
from ..unet.structure import describe_unet, is_prunable, supported_unet
from . import apply as forecasts
from .recording import evaluations_of
from .run import ForecastMethod, ForecastRun
from .samplers import SamplerKind, sampler_kind

logger = logging.getLogger(__name__)

KEY = "atedm_auto"
CostOf = Callable[[float], float]
MAX_SPEED_UP = 4.0
DEFAULT_SPEED_UP = 1.6
_WORDING = Wording("AT-EDM Auto", place="step", kept="computed", part="", unpruned="speed_up 1", in_sequence=True)


@dataclass(frozen=True)
class AutoMethod:
    """What is done to a model, fixed when the node runs: a speed-up, and how the model is pruned if it can be."""

    speed_up: float
    structure: UNetStructure | None
    cost_of: CostOf | None = None
    family: Family | None = None


@dataclass
class AutoRun:
    """One run: what was chosen, and the runs of what was chosen."""

    method: AutoMethod
    spending: Spending | None = None
    prune: PruneRun | None = None
    tokens: CATRun | None = None
    forecast: ForecastRun | None = None

    def doing(self) -> Doing:
        """What was done since this was last asked."""
        if self.forecast is not None and self.forecast.doing() == "forecast":
            return "forecast"
        pruned = self.prune or self.tokens
        return "full" if pruned is None else pruned.doing()

    def reset(self) -> None:
        """Free everything that takes memory."""
        for part in (self.prune, self.tokens, self.forecast):
            if part is not None:
                part.reset()


def apply_auto(model: Any, speed_up: float, *, cost_of: CostOf | None = None) -> Any:
    """A clone of `model` that is so many times as fast by FLOPs, as near to the full picture as that allows.

    It replaces what the pack has put on the model already. At 1 the clone runs as the model does.

    Args:
        model: a ComfyUI MODEL (ModelPatcher) of any kind. U-Nets that AT-EDM supports are pruned too, and transformers
            that CAT Pruning supports.
        speed_up: 1 to 4.
        cost_of: share of an evaluation's FLOPs that is left at a prune ratio, to plan for another model than this; for
            the lab.

    Raises:
        ValueError: `speed_up` is outside of its range.
    """
    check_range("speed_up", speed_up, 1.0, MAX_SPEED_UP)
    structure = _structure(model)
    if structure is not None and speed_up > 1.0 and (why_not := why_blocks_cannot_be_pruned()) is not None:
        logger.warning("AT-EDM Auto: forecasts alone: %s", why_not)
        structure = None
    family = family_of(model.get_model_object("diffusion_model"))
    method = AutoMethod(speed_up, structure, cost_of, family)
    patched = put_on(model, KEY, method, lambda asked: _begin(method, asked), _hang_in, _conclude)
    for key in (pruning.KEY, tokens.KEY, forecasts.KEY):
        patched.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, key)
        patched.remove_attachments(key)
    pruning.remove_handler(patched.model_options)
    if speed_up > 1.0 and method.structure is not None:
        pruning.add_handler(patched)
    return patched


def applied_auto(model: Any) -> AutoMethod | None:
    """What `apply_auto` put on a MODEL or on one that it was cloned from; `None` if nothing."""
    return applied(model, KEY, AutoMethod)


def _structure(model: Any) -> UNetStructure | None:
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, UNetModel) or not any(is_prunable(module) for module in unet.modules()):
        return None
    try:
        return describe_unet(supported_unet(model))
    except ValueError:  # a video U-Net: forecasts alone
        return None


def _begin(method: AutoMethod, asked: Asked) -> AutoRun:
    run = AutoRun(method)
    if method.speed_up <= 1.0 or asked.steps < 1:
        return run
    kind, limits = sampler_kind(asked.sampler), ForecastSettings()
    least_real = min(asked.steps, limits.first_steps + limits.last_steps)
    # Across fresh noise tokens held are nearer than whole evaluations forecast (`docs/cat_fidelity.md`).
    fewest = asked.steps if kind.stochastic else least_real
    if method.family is not None and _begin_transformer(run, method.family, asked, fewest):
        return run
    coming = forecasts.evaluations(limits, asked)
    run.spending = spend(method.speed_up, coming, group_of(kind), kind.multistep, _cost_of(method, asked.latent))
    ratio, compute = run.spending.prune_ratio, run.spending.compute
    if ratio > 0 and method.structure is not None:
        run.prune = pruning.begin(
            Method(DSAPSchedule(ratio).for_model(method.structure), DEFAULT_SETTINGS, method.structure), asked
        )
    if compute < 1.0:
        run.forecast = forecasts.begin(ForecastMethod(ForecastSettings(compute)), asked)
    return run


def _begin_transformer(run: AutoRun, family: Family, asked: Asked, least_real: int) -> bool:
    """Plan a run of a transformer whose tokens can be pruned; says whether this is one."""
    model = asked.guider.model_patcher.get_model_object("diffusion_model")
    if asked.steps < FEWEST_TO_PRUNE or family.unsupported(model) is not None:
        return False
    flow = isinstance(asked.guider.model_patcher.get_model_object("model_sampling"), CONST)
    structure, (height, width), text = family.structure(model), family.grid(model, asked.latent), _text_tokens(asked)
    full = transformer_flops(structure, height * width, text)

    def cost_of(keep: float) -> float:
        kept = CATSelection(keep).kept(height * width)
        return transformer_flops(structure, height * width, text, kept) / full

    settled = settled_steps(asked.sigmas, flow)
    planned = spend_on_transformer(run.method.speed_up, asked.steps, least_real, cost_of, settled=settled)
    if planned.keep_ratio < 1.0:
        selection = CATSelection(planned.keep_ratio, choose_by="expected error")
        run.tokens = tokens.begin(CATMethod(selection, planned.schedule, family), asked)
        if run.tokens.nothing_because is not None:
            run.tokens = None
            return False
    if planned.compute < 1.0:
        run.forecast = forecasts.begin(ForecastMethod(ForecastSettings(planned.compute)), asked)
    run.spending = Spending(0.0, planned.compute, 1.0 / planned.share, math.inf)
    return True


def _text_tokens(asked: Asked) -> int:
    """Of the first positive condition, 0 where that cannot be told; good enough to plan with."""
    conditions = (getattr(asked.guider, "conds", None) or {}).get("positive") or ()
    found = [one["cross_attn"].shape[1] for one in conditions if one.get("cross_attn") is not None]
    return found[0] if found else 0


def group_of(kind: SamplerKind) -> SamplerGroup:
    """The group of samplers that a sampler is in, as far as what to expect of forecasts goes."""
    if kind.stochastic:
        return "stochastic"
    return "multistep" if kind.multistep else "one step"


def _cost_of(method: AutoMethod, latent: tuple[int, int]) -> CostOf | None:
    if method.structure is None or method.cost_of is not None:
        return method.cost_of
    return partial(share_left, method.structure, latent)


def _hang_in(run: AutoRun, asked: Asked, options: dict[str, Any]) -> None:
    if run.prune is not None:
        pruning.hang_in(run.prune, asked, options)
    if run.tokens is not None:
        tokens.hang_in(run.tokens, asked, options)
    if run.forecast is not None:
        forecasts.hang_in(run.forecast, asked, options)


def _conclude(run: AutoRun, asked: Asked, seconds: float | None) -> Ended:
    if run.spending is None:
        off = reason("speed_up_off")
        return Ended(_record(run, asked, seconds, None), off, off=True) if seconds is not None else Ended()
    pruned = None
    if run.prune is not None:
        pruned = pruning.conclude(run.prune, asked, seconds).record
    if run.tokens is not None:
        pruned = tokens.conclude(run.tokens, asked, seconds).record
    if run.forecast is not None:
        forecasts.conclude(run.forecast, asked, seconds)
    record = None if seconds is None else _record(run, asked, seconds, pruned)
    logger.info("%s", summarize(run, asked, record))
    short = reason("run_in_full", steps=asked.steps, speed_up=run.method.speed_up)
    return Ended(record, None if record is None or record.pruned else short)


def _record(run: AutoRun, asked: Asked, seconds: float, pruned: RunRecord | None) -> RunRecord:
    """Of a run that came to its end: what forecasts did, and what pruning did if it did anything."""
    chosen = run.spending
    settings: dict[str, object] = {"speed_up": run.method.speed_up}
    if chosen is not None:
        settings |= {"prune_ratio": chosen.prune_ratio, "compute": chosen.compute}
    found = pruned or RunRecord(
        wording=_WORDING,
        model=None,
        settings=(),
        steps=asked.steps,
        seconds=seconds,
        samples=asked.noise.shape[0],
        conditions=1,
        latent=asked.latent,
        places=(),
        work=asked.work,
    )
    return replace(
        found,
        wording=replace(found.wording, method="AT-EDM Auto", unpruned="speed_up 1"),
        model=model_of(asked.guider),
        settings=shown_settings(settings),
        planned=None,
        evaluations=() if run.forecast is None else evaluations_of(run.forecast, asked),
    )


def summarize(run: AutoRun, asked: Asked, record: RunRecord | None) -> str:
    """One line: what was wanted, chosen and reached, and why. A run that was interrupted has no record."""
    spending = run.spending
    assert spending is not None
    steps = "1 step" if asked.steps == 1 else f"{asked.steps} steps"
    wanted = f"AT-EDM Auto: {run.method.speed_up:g}x wanted at {steps}"
    chosen = []
    if run.forecast is not None:
        chosen.append(f"forecast {1.0 - spending.compute:.0%} of the evaluations")
    if run.prune is not None:
        where = " in the others" if chosen else ""
        chosen.append(f"drop {spending.prune_ratio:.0%} of the tokens{where}")
    if run.tokens is not None:
        where = " in the others" if chosen else ""
        chosen.append(f"compute {run.tokens.method.selection.keep_ratio:.0%} of the tokens{where}")
    if not chosen:
        why = "every evaluation of so few steps is needed" + (
            ", and this model's tokens are not pruned" if run.method.structure is None else ""
        )
        return f"{wanted}, run in full: {why}. Take fewer steps instead."
    if record is None:
        return f"{wanted}, chose to {' and '.join(chosen)} (interrupted)"
    reached = record.ideal_speed_up
    short = "" if reached >= 0.97 * run.method.speed_up else ", the most that beats taking fewer steps here"
    return f"{wanted}, chose to {' and '.join(chosen)}, reached {reached:.2f}x by FLOPs{short}"
