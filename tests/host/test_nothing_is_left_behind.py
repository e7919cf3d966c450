"""Off is off, and a pruned run leaves no trace: not on the model, not in the random numbers, not in the next run."""

from __future__ import annotations

import gc
import random
from typing import Any

import numpy
import pytest
import torch
from in_process import InProcessHost
from sample_tiny import cond_for
from watching import RATIO, apply, assert_pruned, sample, schedule, shared_model, watched_sample

from benchmarks import random_models as tiny_models


class Spy:
    """Counts what a run asks of the pack's mathematics."""

    def __init__(self, host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        pruning = host.module("atedm_core.unet.ranking")
        passed = host.module("patches.unet.pruning_pass")
        for module, name in (
            (pruning, "gwpr"),
            (pruning, "cross_gwpr"),
            (passed, "rank_states"),
            (passed, "select_tokens"),
            (passed, "recover"),
            (passed, "AttentionView"),
        ):
            monkeypatch.setattr(module, name, self._counting(name, getattr(module, name)))

    def _counting(self, name: str, original: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            return original(*args, **kwargs)

        return counted


@pytest.mark.parametrize("kind", tiny_models.UNETS)
def test_ratio_zero_is_bit_identical_and_ranks_nothing(
    host: InProcessHost, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shared_model(kind)
    plain = sample(model, kind)
    spy = Spy(host, monkeypatch)
    assert torch.equal(sample(apply(host, model, 0.0), kind), plain)
    assert torch.equal(sample(apply(host, model, 0.0, schedule=schedule(host, early_ratio=0.5)), kind), plain)
    assert spy.asked == []
    sample(apply(host, model), kind, steps=1)
    assert {"rank_states", "select_tokens", "recover"} == set(spy.asked)
    spy.asked.clear()
    sample(apply(host, model, ranking="self-attention"), kind, steps=1)
    assert {"gwpr", "select_tokens", "recover", "AttentionView"} == set(spy.asked)


def test_a_schedule_that_prunes_nothing_is_bit_identical_and_ranks_nothing(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the handler is in place and leaves every block to the host."""
    model = shared_model("sdxl")
    plain = sample(model)
    spy = Spy(host, monkeypatch)
    spared = schedule(host, early_percent=1.0, early_blocks="all")
    assert torch.equal(sample(apply(host, model, schedule=spared)), plain)
    assert spy.asked == []


def test_early_steps_are_bit_identical_until_pruning_begins(host: InProcessHost) -> None:
    """What is spared is spared wholly: with all blocks spared, the first step's result is the plain model's."""
    model = shared_model("sdxl")
    late = schedule(host, early_percent=0.3, early_blocks="all")
    first_steps: list[list[torch.Tensor]] = []
    for one in (model, apply(host, model, schedule=late)):
        clone, seen = one.clone(), []
        clone.set_model_sampler_post_cfg_function(
            lambda args, seen=seen: seen.append(args["denoised"]) or args["denoised"]
        )
        sample(clone, steps=4)
        first_steps.append(seen)
    plain, pruned = first_steps
    same = [torch.equal(a, b) for a, b in zip(plain, pruned, strict=True)]
    assert same[0]
    assert not same[-1]


@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_the_unpatched_branch_gives_the_same_bits_before_and_after(host: InProcessHost, kind: str) -> None:
    model = shared_model(kind)
    weights = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    before = sample(model, kind)
    pruned, calls = watched_sample(apply(host, model), kind)
    assert_pruned(calls, pruned)
    assert torch.equal(sample(model, kind), before)
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_a_run_changes_nothing_on_the_patched_model(host: InProcessHost) -> None:
    """No state on the MODEL that ComfyUI keeps between prompts, nor on its modules."""
    patched = apply(host, shared_model("sdxl"))
    unet = patched.model.diffusion_model

    def trace() -> tuple[Any, ...]:
        attributes = [sorted(vars(module)) for module in unet.modules()]
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet.modules()]
        options = {k: sorted(map(str, v)) for k, v in patched.model_options["transformer_options"].items()}
        return attributes, hooks, options, sorted(patched.attachments), sorted(patched.object_patches)

    sample(patched)  # what the host itself sets on first use is there before looking
    before = trace()
    sample(patched)
    assert trace() == before


@pytest.mark.parametrize("inputs", [{}, {"ranking": "self-attention"}])
def test_no_tensor_outlives_a_run_and_none_is_made_again_at_every_step(
    host: InProcessHost, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables of the token grid are made once for each of the model's two sizes, and gone with the run."""
    made: list[tuple[int, int]] = []
    even_order = host.module("atedm_core.tokens").EvenOrder
    original = even_order.of
    monkeypatch.setattr(even_order, "of", lambda grid, device=None: made.append(grid) or original(grid, device))
    patched = apply(host, shared_model("sdxl"), **inputs)
    sample(patched, width=128, height=128)
    made.clear()

    def tensors() -> list[torch.Tensor]:
        gc.collect()
        return [found for found in gc.get_objects() if type(found) is torch.Tensor]

    before = tensors()
    known = {id(tensor) for tensor in before}
    sample(patched, width=160, height=192, steps=4)
    assert sorted(made) == [(6, 5), (12, 10)]
    assert [tuple(tensor.shape) for tensor in tensors() if id(tensor) not in known] == []


def test_the_same_patched_run_gives_the_same_bits(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    patched = apply(host, model)
    first = sample(patched)
    sample(patched, seed=7, width=192)
    assert torch.equal(sample(patched), first)
    assert torch.equal(sample(apply(host, model)), first)
    assert not torch.equal(sample(model), first)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_random_numbers_are_left_where_the_plain_run_leaves_them(host: InProcessHost, sampler: str) -> None:
    model = shared_model("sdxl")
    conditions = {"positive": cond_for("sdxl", 1), "negative": cond_for("sdxl", 2)}

    def states_after(one: Any) -> tuple[Any, ...]:
        random.seed(11)
        numpy.random.seed(11)
        torch.manual_seed(11)
        sample(one, sampler=sampler, **conditions)
        return torch.random.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state())

    plain = states_after(model)
    for inputs in ({}, {"selection": "top-k", "recovery": "interpolate"}, {"ranking": "cross-attention"}):
        assert states_after(apply(host, model, **inputs)) == plain


def test_two_samplers_after_one_another_at_two_sizes(host: InProcessHost) -> None:
    """As in a hires fix: the second run knows nothing of the first, and each gives what it gives alone."""
    model = apply(host, shared_model("sdxl"))
    alone_small = sample(model, width=128, height=128)
    upscaled = {"samples": torch.nn.functional.interpolate(alone_small, scale_factor=1.5)}
    how: dict[str, Any] = {"latent": upscaled, "denoise": 0.5, "sampler": "heun"}
    alone_large = sample(model, **how)
    small, first = watched_sample(model, width=128, height=128)
    large, second = watched_sample(model, **how)
    assert torch.equal(small, alone_small)
    assert torch.equal(large, alone_large)
    assert_pruned(first, small)
    assert_pruned(second, large)
    assert {event.grid for event in first.events()} == {(8, 8), (4, 4)}
    assert {event.grid for event in second.events()} == {(12, 12), (6, 6)}
    assert [len(one.reports) for one in (first, second)] == [1, 1]


def test_two_models_pruned_differently_in_turns(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    light, strong = apply(host, model, 0.3), apply(host, model, 0.8)
    alone = sample(light), sample(strong)
    assert torch.equal(sample(light), alone[0])
    assert torch.equal(sample(strong), alone[1])
    assert not torch.equal(*alone)


@pytest.mark.parametrize("steps_before", [1, 2])
def test_an_interrupted_run_is_gone_without_trace(
    host: InProcessHost, steps_before: int, caplog: pytest.LogCaptureFixture
) -> None:
    import comfy.model_management
    import comfy.sample
    import comfy.samplers

    patched = apply(host, shared_model("sdxl"))
    fresh = sample(patched, steps=4)
    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(cond_for("sdxl", 1), cond_for("sdxl", 2))
    guider.set_cfg(7.0)
    options = guider.model_options
    model_options_before = {key: list(value) for key, value in options["transformer_options"].items()}
    runs: list[Any] = []
    run_class = host.module("patches.unet.apply").PruneRun
    host_reset = run_class.reset

    def stop(step: int, *args: Any) -> None:
        if step + 1 == steps_before:
            raise comfy.model_management.InterruptProcessingException

    latent = torch.zeros(1, 4, 16, 16)
    ksampler = comfy.samplers.KSampler(patched, 4, latent.device, "euler", "normal", 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_class, "reset", lambda run: (runs.append(run), host_reset(run)))
        caplog.set_level("INFO")
        with torch.inference_mode(), pytest.raises(comfy.model_management.InterruptProcessingException):
            guider.sample(
                comfy.sample.prepare_noise(latent, 42),
                latent,
                comfy.samplers.sampler_object("euler"),
                ksampler.sigmas,
                callback=stop,
                seed=42,
            )
    assert guider.model_options is options
    assert {key: list(value) for key, value in options["transformer_options"].items()} == model_options_before
    (run,) = runs
    assert not run.tallies
    assert not run.seen_progress()
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("AT-EDM")]
    assert "interrupted" in line
    assert torch.equal(sample(patched, steps=4), fresh)


@pytest.mark.parametrize("ratio", [0.0, RATIO])
def test_a_run_that_fails_raises_its_own_error(host: InProcessHost, ratio: float) -> None:
    clone = apply(host, shared_model("sdxl"), ratio)
    good = sample(clone)

    def fail(args: dict[str, Any]) -> torch.Tensor:
        raise ArithmeticError("as planned")

    bad = clone.clone()
    bad.set_model_sampler_post_cfg_function(fail)
    with pytest.raises(ArithmeticError, match="as planned"):
        sample(bad)
    assert torch.equal(sample(clone), good)


@pytest.mark.parametrize("fails", [False, True])
def test_wrappers_around_the_run_find_the_options_as_they_left_them(host: InProcessHost, fails: bool) -> None:
    """Step caches wrap the run too and look at the options after it."""
    import comfy.patcher_extension

    found: list[tuple[bool, bool, bool]] = []
    inside: list[bool] = []

    def around(executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        before = guider.model_options
        try:
            return executor(*args, **kwargs)
        finally:
            after = guider.model_options
            found.append((after is before, "atedm_run" in before["transformer_options"], bool(inside)))

    def look(args: dict[str, Any]) -> torch.Tensor:
        inside.append("atedm_run" in args["model_options"]["transformer_options"])
        if fails:
            raise ArithmeticError("as planned")
        denoised: torch.Tensor = args["denoised"]
        return denoised

    outer = shared_model("sdxl").clone()
    outer.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "around", around)
    patched = apply(host, outer)
    patched.set_model_sampler_post_cfg_function(look)
    if fails:
        with pytest.raises(ArithmeticError):
            sample(patched)
    else:
        sample(patched)
    assert found == [(True, False, True)]
    assert all(inside)
