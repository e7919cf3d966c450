"""Forecasts beside everything else that takes part in a run, and what a run leaves behind."""

from __future__ import annotations

import gc
import logging
import weakref
from itertools import pairwise
from typing import Any

import pytest
import torch
from forecasting import count_calls, forecast, sample, shared
from sample_tiny import cond_for, empty_latent

STEPS = 12


def latent_of_noise(seed: int = 5, batch: int = 1, size: int = 8) -> torch.Tensor:
    return torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(seed))


def prompt_with_area(host: Any) -> Any:
    area = host.call(
        "ConditioningSetArea", conditioning=cond_for("sdxl", 3, 4), width=32, height=32, x=0, y=0, strength=1.0
    )
    return cond_for("sdxl", 1, 4) + area[0]


def prompt_with_mask(host: Any) -> Any:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1.0
    inputs = {"mask": mask, "strength": 1.0, "set_cond_area": "default"}
    return cond_for("sdxl", 1, 4) + host.call("ConditioningSetMask", conditioning=cond_for("sdxl", 3, 4), **inputs)[0]


def prompt_in_two_parts(host: Any) -> Any:
    """Two prompts, one after the other in the course of the run."""
    early = host.call("ConditioningSetTimestepRange", conditioning=cond_for("sdxl", 1, 4), start=0.0, end=0.5)[0]
    late = host.call("ConditioningSetTimestepRange", conditioning=cond_for("sdxl", 3, 4), start=0.5, end=1.0)[0]
    return early + late


def perturbed_attention(host: Any, model: Any) -> Any:
    return host.call("PerturbedAttentionGuidance", model=model, scale=2.0)[0]


def rescaled(host: Any, model: Any) -> Any:
    return host.call("RescaleCFG", model=model, multiplier=0.7)[0]


def differential(host: Any, model: Any) -> Any:
    return host.call("DifferentialDiffusion", model=model)[0]


def easy_cache(host: Any, model: Any) -> Any:
    return host.call("EasyCache", model=model, reuse_threshold=0.1)[0]


def lazy_cache(host: Any, model: Any) -> Any:
    return host.call("LazyCache", model=model, reuse_threshold=0.1)[0]


def relative(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("build", [prompt_with_area, prompt_with_mask, prompt_in_two_parts])
def test_conditions_of_every_kind_are_asked_less_often_and_otherwise_untouched(host, build):
    positive = build(host)
    full = sample(shared("sdxl"), positive=positive)
    watched = forecast(host, shared("sdxl"), 0.5)
    found = sample(watched.model, positive=positive)
    assert watched.letters.count("R") == len(watched.calls) == STEPS / 2
    assert relative(found, full) < 0.4


@pytest.mark.parametrize("patch", [perturbed_attention, rescaled, differential, easy_cache, lazy_cache])
@pytest.mark.parametrize("forecast_first", [True, False])
def test_other_nodes_may_come_before_or_after(host, patch, forecast_first):
    base = shared("sdxl")
    full = sample(patch(host, base))
    if forecast_first:
        watched = forecast(host, base, 0.5)
        watched.model = patch(host, watched.model)
    else:
        watched = forecast(host, patch(host, base), 0.5)
    found = sample(watched.model)
    assert watched.letters.count("R") == STEPS / 2
    assert relative(found, full) < 0.4


def test_a_mask_keeps_what_it_covers(host):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1.0
    start = {"samples": latent_of_noise(), "noise_mask": mask}
    watched = forecast(host, shared("sdxl"), 0.5)
    found = sample(watched.model, latent=start)
    torch.testing.assert_close(found[..., :4], start["samples"][..., :4], atol=1e-4, rtol=1e-4)
    assert watched.letters.count("R") == STEPS / 2
    assert relative(found, sample(shared("sdxl"), latent=start)) < 0.4


@pytest.mark.parametrize("denoise", [0.3, 0.6])
def test_image_to_image_keeps_its_budget(host, denoise):
    watched = forecast(host, shared("sdxl"), 0.5)
    found = sample(watched.model, latent={"samples": latent_of_noise()}, denoise=denoise)
    assert watched.letters.count("R") == STEPS / 2
    assert torch.isfinite(found).all()


def test_a_run_in_two_samplers_is_two_budgets(host):
    import nodes

    watched = forecast(host, shared("sdxl"), 0.5)
    prompts = (cond_for("sdxl", 1, 4), cond_for("sdxl", 2, 4))
    with torch.inference_mode():
        first = nodes.KSamplerAdvanced().sample(
            watched.model, "enable", 1, 24, 4.0, "euler", "normal", *prompts, empty_latent(64, 64), 0, 12, "enable"
        )[0]
        nodes.KSamplerAdvanced().sample(
            watched.model, "disable", 1, 24, 4.0, "euler", "normal", *prompts, first, 12, 24, "disable"
        )
    one, other = (sum(e.real for e in run.evaluations) for run in watched.runs)
    assert (one, other) == (6, 6)


def test_runs_of_other_sizes_and_batches_follow_each_other(host):
    watched = forecast(host, shared("sdxl"), 0.5)
    fresh = sample(watched.model)
    for size, batch in ((16, 1), (8, 3), (24, 2)):
        found = sample(watched.model, latent={"samples": torch.zeros(batch, 4, size, size)})
        assert found.shape == (batch, 4, size, size)
        assert watched.letters.count("R") == STEPS / 2
    assert torch.equal(sample(watched.model), fresh)


def test_a_latent_that_changes_within_a_run_begins_anew(host):
    """Some samplers change the latent's size on the way."""
    import comfy.samplers

    def run(model, x, sigmas, extra_args, callback, disable):
        for step, (sigma, after) in enumerate(pairwise(sigmas)):
            if step == 6:
                x = torch.nn.functional.interpolate(x, scale_factor=2)
            denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
            x = denoised + (x - denoised) * (after / sigma)
        return x

    watched = forecast(host, shared("sdxl"), 0.5)
    guider = comfy.samplers.CFGGuider(watched.model)
    guider.set_conds(cond_for("sdxl", 1, 4), cond_for("sdxl", 2, 4))
    sigmas = comfy.samplers.calculate_sigmas(watched.model.get_model_object("model_sampling"), "normal", STEPS)
    with torch.inference_mode():
        found = guider.sample(latent_of_noise(), torch.zeros(1, 4, 8, 8), comfy.samplers.KSAMPLER(run), sigmas, seed=1)
    assert found.shape == (1, 4, 16, 16)
    assert watched.letters[6:8] == "RR"


def test_sampling_within_a_run_is_a_run_of_its_own(host):
    """With another model: the host itself does not bear a run of the model that is running."""
    watched, inner = forecast(host, shared("sdxl"), 0.5), forecast(host, shared("sd15"), 0.5)
    plain = sample(watched.model)
    letters = watched.letters
    nested = watched.model.clone()

    def sample_inside(args: dict[str, Any]) -> Any:
        if not inner.runs:
            sample(inner.model, "sd15", steps=8)
        return args["denoised"]

    nested.set_model_sampler_post_cfg_function(sample_inside)
    assert torch.equal(sample(nested), plain)
    assert watched.letters == letters
    assert len(inner.letters) == 8


@pytest.mark.parametrize("error", ["interrupt", "failure"])
def test_a_run_that_ends_early_leaves_nothing(host, error, caplog):
    import comfy.model_management
    import comfy.samplers

    watched = forecast(host, shared("sdxl"), 0.5)
    fresh = sample(watched.model)
    kind = comfy.model_management.InterruptProcessingException if error == "interrupt" else ArithmeticError

    def stop(step: int, *_: Any) -> None:
        if step == 6:
            raise kind

    guider = comfy.samplers.CFGGuider(watched.model)
    guider.set_conds(cond_for("sdxl", 1, 4), cond_for("sdxl", 2, 4))
    options = guider.model_options
    sigmas = comfy.samplers.calculate_sigmas(watched.model.get_model_object("model_sampling"), "normal", STEPS)
    sampler = comfy.samplers.sampler_object("euler")
    with pytest.raises(kind), torch.inference_mode(), caplog.at_level(logging.INFO):
        guider.sample(latent_of_noise(), torch.zeros(1, 4, 8, 8), sampler, sigmas, callback=stop, seed=1)
    assert guider.model_options is options
    assert "(interrupted)" in caplog.text
    assert len(watched.runs[-1]._history) == 0
    assert torch.equal(sample(watched.model), fresh)


def test_what_a_run_kept_is_free_when_it_has_ended(host, monkeypatch):
    history = host.module("atedm_core.forecast").PredictionHistory
    seen: list[weakref.ref[torch.Tensor]] = []
    most: list[int] = []
    original = history.observe

    def observe(self: Any, place: float, truth: torch.Tensor) -> None:
        seen.append(weakref.ref(truth))
        original(self, place, truth)
        most.append(len(self))

    monkeypatch.setattr(history, "observe", observe)
    watched = forecast(host, shared("sdxl"), 0.5)
    sample(watched.model)
    gc.collect()
    assert len(seen) == STEPS / 2
    assert max(most) == 3
    assert all(one() is None for one in seen)


def test_the_model_given_is_left_as_it_was(host):
    base = shared("sdxl").clone()
    before = {name: dict(value) for name, value in base.model_options["transformer_options"].items()}
    watched = forecast(host, base, 0.5)
    sample(watched.model)
    assert {name: dict(value) for name, value in base.model_options["transformer_options"].items()} == before
    assert "step_forecast" not in str(base.wrappers)


def test_applied_again_it_replaces_what_was_there(host):
    apply = host.module("patches.steps.apply")
    settings = host.module("atedm_core.forecast_plan").ForecastSettings
    watched = forecast(host, forecast(host, shared("sdxl"), 0.9).model, 0.5)
    watched.runs.clear()
    sample(watched.model)
    assert len(watched.runs) == 1
    assert watched.letters.count("R") == STEPS / 2
    assert apply.applied_forecast(watched.model).settings.compute == 0.5
    off = apply.apply_forecast(watched.model, settings(1.0))
    assert torch.equal(sample(off), sample(shared("sdxl")))


def test_every_step_is_shown(host):
    import comfy.samplers

    watched, shown = forecast(host, shared("sdxl"), 0.5), []
    guider = comfy.samplers.CFGGuider(watched.model)
    guider.set_conds(cond_for("sdxl", 1, 4), cond_for("sdxl", 2, 4))
    sigmas = comfy.samplers.calculate_sigmas(watched.model.get_model_object("model_sampling"), "normal", STEPS)
    with torch.inference_mode():
        guider.sample(
            latent_of_noise(),
            torch.zeros(1, 4, 8, 8),
            comfy.samplers.sampler_object("dpmpp_2m"),
            sigmas,
            callback=lambda step, denoised, x, total: shown.append(step),
            seed=1,
        )
    assert shown == list(range(STEPS))


@pytest.mark.parametrize("forecast_first", [True, False])
def test_at_edm_sees_real_evaluations_only(host, forecast_first, caplog):
    base = shared("sdxl")
    prune = lambda model: host.call("ATEDMApply", model=model, prune_ratio=0.5)[0]  # noqa: E731
    if forecast_first:
        watched = forecast(host, base, 0.5)
        watched.model = prune(watched.model)
    else:
        watched = forecast(host, prune(base), 0.5)
    with caplog.at_level(logging.INFO):
        found = sample(watched.model, latent=empty_latent(128, 128))
    assert watched.letters.count("R") == STEPS / 2
    (line,) = [one.getMessage() for one in caplog.records if one.getMessage().startswith("AT-EDM: kept")]
    assert "6 model calls per condition" in line
    assert "pruned 0" not in line
    assert not torch.equal(found, sample(forecast(host, base, 0.5).model, latent=empty_latent(128, 128)))


@pytest.mark.parametrize("forecast_first", [True, False])
def test_cat_pruning_sees_real_evaluations_only(host, forecast_first, caplog):
    base = shared("sd3")
    prune = lambda model: host.call("CATPruningApply", model=model)[0]  # noqa: E731
    if forecast_first:
        watched = forecast(host, base, 0.5)
        watched.model = prune(watched.model)
    else:
        watched = forecast(host, prune(base), 0.5)
    from sample_transformers import latent

    with caplog.at_level(logging.INFO):
        sample(watched.model, "sd3", latent=latent("sd3", 256, 256), steps=20)
    assert watched.letters.count("R") == 10
    (line,) = [one.getMessage() for one in caplog.records if one.getMessage().startswith("CAT Pruning: pruned")]
    assert "of 10 model calls" in line
    assert "pruned 0 of" not in line


def test_calls_below_are_those_that_were_real(host):
    calls: list[tuple[int, ...]] = []
    base = shared("sdxl").clone()
    count_calls(base, calls)
    watched = forecast(host, base, 0.4)
    sample(watched.model, steps=20)
    assert len(calls) == watched.letters.count("R") == 8
