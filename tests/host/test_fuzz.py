"""A few of the fuzzer's configurations, and that it finds what it is there to find.

Hours of it: `nice python dev.py fuzz --minutes 240`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessHost

from devtools.fuzz import checking, models, run
from devtools.fuzz.drawing import CHECKS, Case, Condition, draw_case
from devtools.fuzz.neighbours import put_beside

FEW = range(14)


def test_a_seed_is_always_the_same_configuration(host: InProcessHost) -> None:
    assert [draw_case(seed, host) for seed in FEW] == [draw_case(seed, host) for seed in FEW]
    assert len({draw_case(seed, host) for seed in ()} | {str(draw_case(seed, host)) for seed in FEW}) == len(FEW)


def test_configurations_reach_every_family_node_and_check(host: InProcessHost) -> None:
    cases = [draw_case(seed, host) for seed in range(400)]
    assert {case.family for case in cases} == set(models.FAMILIES)
    assert {node for case in cases for node, _ in case.nodes} == set(checking.OFF)
    assert {case.check for case in cases} == set(CHECKS)
    assert {1, 2} <= {side for case in cases for side in case.cells}
    assert max(side for case in cases for side in case.cells) > 38


def test_nothing_is_violated_in_a_few_configurations(host: InProcessHost) -> None:
    seeds, said = iter(FEW), []
    outcomes, failed = run.many(lambda: next(seeds, None), host, said.append)
    assert failed == [], said
    assert outcomes["ok"] > len(FEW) / 2


def quick(**changes: Any) -> Case:
    given = Condition(seed=1, tokens=5)
    usual: dict[str, Any] = {
        "seed": 3,
        "family": "sd3",
        "dtype": "float32",
        "cells": (8, 8),
        "batch": 1,
        "steps": 6,
        "cfg": 1.0,
        "sampler": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "inpaint": False,
        "positive": (given,),
        "negative": (given,),
        "nodes": (("StepForecastApply", {"compute": 0.5}),),
        "others": (("StepForecastApply", {"compute": 0.7}),),
        "neighbour": None,
        "neighbour_first": False,
        "check": "repeat",
        "control": False,
    }
    return Case(**{**usual, **changes})


def spoilt(patched: Any, how: str) -> Any:
    """A model on which a pack does what none may."""
    times = 0

    def wrapper(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
        nonlocal times
        times += 1
        out: torch.Tensor = apply_model(given["input"], given["timestep"], **given["c"])
        if how == "a trace was left in modules":
            next(patched.model.modules()).left_by_a_run = times
        if how == "a trace was left in options":
            patched.model_options["left"] = times
        if how == "random numbers were drawn otherwise":
            torch.rand(1)
        if how == "the result is not finite":
            return out * float("nan")
        return out + times if how == "a run does not repeat" else out

    patched.set_model_unet_function_wrapper(wrapper)
    return patched


@pytest.mark.parametrize(
    "how",
    [
        "a trace was left in modules",
        "a trace was left in options",
        "random numbers were drawn otherwise",
        "the result is not finite",
        "a run does not repeat",
    ],
)
def test_what_a_pack_must_not_do_is_found(host: InProcessHost, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checking.check(quick(), host) == "ok"
    apply = checking._patched
    monkeypatch.setattr(checking, "_patched", lambda *args: spoilt(apply(*args), how))
    with pytest.raises(checking.Violation, match=how):
        checking.check(quick(), host)
    vars(next(models.model("sd3", "float32").model.modules())).pop("left_by_a_run", None)


@pytest.mark.parametrize("check", ["off", "unpatched", "in turn", "in threads", "interrupt"])
def test_every_check_passes_where_nothing_is_wrong(host: InProcessHost, check: str) -> None:
    assert checking.check(quick(check=check), host) == "ok"


CAT = (("CATPruningApply", {"keep_ratio": 0.4, "warmup": 0.2, "least_full_steps": 2}),)
LORA_BESIDE = ("LoraLoaderModelOnly", {"strength_model": 1.0})


@pytest.mark.parametrize("first", [True, False])
def test_a_lora_counts_and_is_no_trace(host: InProcessHost, first: bool) -> None:
    plain = checking._sample(quick(), models.model("sd3", "float32"))
    case = quick(nodes=CAT, neighbour=LORA_BESIDE, neighbour_first=first, check="unpatched")
    assert checking.check(case, host) == "ok"
    assert not torch.equal(checking._sample(case, put_beside(LORA_BESIDE, host, *the_sd3())), plain)
    assert torch.equal(checking._sample(quick(), models.model("sd3", "float32")), plain)


def the_sd3() -> tuple[Any, str]:
    return models.model("sd3", "float32"), "sd3"


def test_pictures_that_look_at_others_of_their_batch_are_found(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = quick(nodes=CAT, batch=2, check="batch")
    assert checking.check(case, host) == "ok"
    apply = checking._patched

    def nosy(*args: Any) -> Any:
        patched = apply(*args)
        patched.set_model_sampler_post_cfg_function(lambda given: given["denoised"] + given["denoised"].mean(0))
        return patched

    monkeypatch.setattr(checking, "_patched", nosy)
    with pytest.raises(checking.Violation, match="depends on the others of its batch"):
        checking.check(case, host)


def test_what_two_threads_share_is_found(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    apply, shared = checking._patched, [0]

    def counted(given: dict[str, Any]) -> Any:
        shared[0] = 0 if given["sigma"] > 0.99 else shared[0] + 1
        return given["denoised"] + shared[0]

    def counting(*args: Any) -> Any:
        patched = apply(*args)
        patched.set_model_sampler_post_cfg_function(counted)
        return patched

    monkeypatch.setattr(checking, "_patched", counting)
    assert checking.check(quick(nodes=CAT, others=CAT), host) == "ok"
    with pytest.raises(checking.Violation, match="depends on another thread's"):
        checking.check(quick(nodes=CAT, others=CAT, check="in threads"), host)


def test_off_that_is_not_off_is_found(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checking.OFF, "StepForecastApply", {"compute": 0.6})
    with pytest.raises(checking.Violation, match="off is not the model itself"):
        checking.check(quick(check="off"), host)


def test_a_violation_says_the_line_that_repeats_it(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(case: Case, host: Any) -> str:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(run, "check", wrong)
    seeds, said = iter((17,)), []
    _, failed = run.many(lambda: next(seeds, None), host, said.append)
    assert failed == [17]
    assert "ZeroDivisionError: ours" in said[0]
    assert said[0].splitlines()[-1] == "  repeat it with: python dev.py fuzz --seed 17"
