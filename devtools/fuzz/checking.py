"""Runs one configuration and checks what must hold of every one.

Only the nodes may refuse, with a ValueError that a user understands; where the model alone can be sampled, the patched
one can; it is finite where that is finite; off is the model itself to the bit; a run repeats to the bit, whatever ran
in between; random numbers are drawn as without the pack; and no model, module or option keeps a trace.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from . import models, traces
from .drawing import Case, NodeCall
from .neighbours import LORA, put_beside
from .threads import PassOn, in_turns

OFF = {
    "ATEDMApply": {"prune_ratio": 0.0},
    "StepForecastApply": {"compute": 1.0},
    "ATEDMAuto": {"speed_up": 1.0},
    "CATPruningApply": {"keep_ratio": 1.0},
}
LONGEST_SENTENCE = 600
_SEED = 7


class Violation(Exception):  # noqa: N818 (what is raised is a finding)
    """Something that must always hold did not."""


def check(case: Case, host: Any) -> str:
    """How a configuration went: `ok`, `refused` by a node, or `host` where the model alone cannot be sampled.

    Raises:
        Violation: something did not hold.
    """
    base = _beside(case, host, models.model(case.family, case.dtype), first=True)
    plain_model = _beside(case, host, base, first=False)
    try:
        plain = _sample(case, plain_model)
    except Exception:
        return "host"
    drawn = traces.of_random_numbers()
    try:
        patched = _beside(case, host, _patched(host, base, case.nodes), first=False)
    except ValueError as error:
        _expect_sentence(error)
        return "refused"
    weights = case.neighbour is None or case.neighbour[0] != LORA
    before = [traces.of_model(one) for one in (base, patched)] + [traces.of_modules(base, weights)]
    out = _sample(case, patched)
    _same(traces.of_random_numbers(), drawn, "random numbers were drawn otherwise")
    if bool(plain.isfinite().all()):
        _expect(bool(out.isfinite().all()), "the result is not finite")
    _expect(out.shape == plain.shape and out.dtype == plain.dtype, "the result has another shape or type")
    if case.check == "batch":
        _beside_other_pictures(case, patched, plain_model, plain, out)
    else:
        _check_one(case, host, base, patched, plain, out)
    after = [traces.of_model(one) for one in (base, patched)] + [traces.of_modules(base, weights)]
    for found, was in zip(after, before, strict=True):
        for name, value in was.items():
            _same(found[name], value, f"a trace was left in {name}")
    return "ok"


def _check_one(case: Case, host: Any, base: Any, patched: Any, plain: Any, out: Any) -> None:
    if case.check == "off":
        off = tuple((node_id, {**inputs, **OFF[node_id]}) for node_id, inputs in case.nodes)
        without = [(node_id, {**inputs, "budget": None}) for node_id, inputs in off]
        off_model = _beside(case, host, _patched(host, base, tuple(without)), first=False)
        _same_bits(_sample(case, off_model), plain, "off is not the model itself")
    elif case.check == "unpatched":
        _same_bits(_sample(case, _beside(case, host, base, first=False)), plain, "the unpatched model has changed")
    elif case.check == "in threads":
        _in_threads(case, host, patched, out)
    elif case.check == "report":
        host.call("ATEDMReport", model=patched, result={"samples": out})
    else:
        if case.check == "in turn":
            _try(case, host, base)
        elif case.check == "interrupt":
            _interrupted(case, patched)
        _same_bits(_sample(case, patched), out, "a run does not repeat")


def _try(case: Case, host: Any, base: Any) -> None:
    """A run of another clone in between."""
    try:
        other = _beside(case, host, _patched(host, base, case.others), first=False)
    except ValueError as error:
        return _expect_sentence(error)
    _sample(case, other)
    return None


def _in_threads(case: Case, host: Any, patched: Any, out: Any) -> None:
    """Beside another model of the family that another thread samples, a call of the one after a call of the other."""
    other = _beside(case, host, models.model(case.family, case.dtype, 1), first=True)
    try:
        other = _beside(case, host, _patched(host, other, case.others), first=False)
    except ValueError as error:
        return _expect_sentence(error)
    expected = [out, _sample(case, other)]

    def sampled(model: Any) -> Callable[[PassOn], Any]:
        return lambda pass_on: _sample(case, _told_of_evaluations(model, pass_on))

    for found, alone in zip(in_turns([sampled(patched), sampled(other)]), expected, strict=True):
        _same_bits(found, alone, "a run depends on another thread's")
    return None


def _beside_other_pictures(case: Case, patched: Any, plain_model: Any, plain: Any, out: Any) -> None:
    """The first picture of a batch stays as it is when the others change, if it does without the pack."""
    if _same_bit_for_bit(_sample(case, patched, others=True)[:1], out[:1]):
        return
    _expect(
        not _same_bit_for_bit(_sample(case, plain_model, others=True)[:1], plain[:1]),
        "a picture depends on the others of its batch",
    )


def _told_of_evaluations(model: Any, tell: Callable[[], None]) -> Any:
    """A clone that calls `tell` after every evaluation."""

    def ended(arguments: dict[str, Any]) -> Any:
        tell()
        return arguments["denoised"]

    told = model.clone()
    told.set_model_sampler_post_cfg_function(ended)
    return told


def _interrupted(case: Case, patched: Any) -> None:
    from comfy.model_management import InterruptProcessingException

    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls > case.steps // 2:
            raise InterruptProcessingException

    try:
        _sample(case, _told_of_evaluations(patched, stop))
    except InterruptProcessingException:
        return
    _expect(calls <= case.steps // 2, "a run went on after it was interrupted")


def _beside(case: Case, host: Any, model: Any, first: bool) -> Any:
    """The model with the neighbour, if that is its place."""
    if case.neighbour is None or case.neighbour_first != first:
        return model
    return put_beside(case.neighbour, host, model, case.family)


def _patched(host: Any, model: Any, nodes: tuple[NodeCall, ...]) -> Any:
    for node_id, given in nodes:
        inputs = dict(given)
        schedule, budget = inputs.pop("schedule", None), inputs.pop("budget", None)
        if schedule is not None:
            inputs["schedule"] = host.call("ATEDMSchedule", **schedule)[0]
        if budget is not None:
            wanted = {"schedule": inputs["schedule"]} if schedule is not None else {}
            inputs["prune_ratio"] = host.call("ATEDMBudget", model=model, **budget, **wanted)[0]
        model = host.call(node_id, model=model, **inputs)[0]
    return model


def _sample(case: Case, model: Any, others: bool = False) -> Any:
    import torch

    import nodes

    torch.manual_seed(_SEED)
    positive, negative = (models.conditioning(case, given) for given in (case.positive, case.negative))
    how = (case.steps, case.cfg, case.sampler, case.scheduler, positive, negative)
    with torch.inference_mode():
        return nodes.KSampler().sample(model, case.seed % 2**32, *how, models.latent(case, others), case.denoise)[0][
            "samples"
        ]


def _expect_sentence(error: ValueError) -> None:
    said = str(error)
    plain = re.fullmatch(r"[^\n]{20,}", said) is not None and len(said) < LONGEST_SENTENCE
    _expect(plain and "Traceback" not in said, f"a refusal that is no sentence: {said[:200]!r}")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


def _same(found: Any, expected: Any, otherwise: str) -> None:
    _expect(found == expected, otherwise)


def _same_bits(found: Any, expected: Any, otherwise: str) -> None:
    """Equal, and what is not a number in the same places."""
    _expect(_same_bit_for_bit(found, expected), otherwise)


def _same_bit_for_bit(found: Any, expected: Any) -> bool:
    return found.shape == expected.shape and bool(((found == expected) | (found.isnan() & expected.isnan())).all())
