"""Forecasts while the real host samples: every kind of model, every kind of sampler."""

from __future__ import annotations

import logging

import pytest
import torch
from forecasting import KINDS, OTHERS, answers_replaced, forecast, sample, shared


def relative(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_evaluations_are_left_out_on_every_kind_of_model(host, kind):
    full = sample(shared(kind), kind)
    watched = forecast(host, shared(kind), 0.5)
    found = sample(watched.model, kind)
    assert watched.letters.count("R") == 6
    assert len(watched.letters) == 12
    assert len(watched.calls) == 6
    assert not torch.equal(found, full)
    assert relative(found, full) < 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_compute_1_changes_nothing(host, kind):
    watched = forecast(host, shared(kind), 1.0)
    assert torch.equal(sample(watched.model, kind), sample(shared(kind), kind))
    assert len(watched.calls) == 12


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "wan"])
def test_forecasts_are_nearer_than_as_many_steps(host, kind):
    full = sample(shared(kind), kind, steps=20)
    watched = forecast(host, shared(kind), 0.5)
    found = sample(watched.model, kind, steps=20)
    assert len(watched.calls) == 10
    assert relative(found, full) < 0.7 * relative(sample(shared(kind), kind, steps=10), full)


SINGLE = ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "lms", "ipndm", "deis", "lcm", "ddim"]
SINGLE += ["res_multistep", "uni_pc", "gradient_estimation", "er_sde", "sa_solver", "ddpm"]
SEVERAL = {
    "heun": 2,
    "dpm_2": 2,
    "dpm_2_ancestral": 2,
    "dpmpp_sde": 2,
    "dpmpp_2s_ancestral": 2,
    "heunpp2": 2,
    "seeds_2": 2,
}
OWN_LEVELS = ["dpm_fast", "dpm_adaptive"]


@pytest.mark.parametrize("sampler", [*SINGLE, *SEVERAL, *OWN_LEVELS])
def test_the_budget_is_met_on_every_sampler(host, sampler):
    watched = forecast(host, shared("sdxl"), 0.6)
    found = sample(watched.model, steps=14, sampler=sampler)
    total = len(watched.letters)
    assert torch.isfinite(found).all()
    assert total == len(watched.calls) + watched.letters.count(".")
    # half an evaluation, and one more where what a sampler will do was not known at first
    assert abs(watched.letters.count("R") - 0.6 * total) <= 0.5 + (sampler in SEVERAL)
    assert sampler == "dpm_adaptive" or watched.runs[-1].schedule.calls_per_step == SEVERAL.get(sampler, 1)


@pytest.mark.parametrize(
    "scheduler", ["normal", "karras", "exponential", "sgm_uniform", "simple", "beta", "kl_optimal"]
)
def test_the_budget_is_met_on_every_scheduler(host, scheduler):
    watched = forecast(host, shared("sdxl"), 0.5)
    sample(watched.model, steps=16, scheduler=scheduler)
    assert abs(watched.letters.count("R") - 0.5 * len(watched.letters)) <= 1


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 30])
def test_any_number_of_steps_works(host, steps):
    watched = forecast(host, shared("sdxl"), 0.5)
    assert torch.isfinite(sample(watched.model, steps=steps)).all()
    assert len(watched.letters) == steps
    assert watched.letters.count("R") == max(min(steps, 4), round(0.5 * steps))


def test_both_ends_and_the_longest_row_are_as_asked(host):
    watched = forecast(host, shared("sdxl"), 0.3, first_steps=2, last_steps=3, most_skips=2)
    sample(watched.model, steps=20)
    assert watched.letters.startswith("RR.")
    assert watched.letters.endswith("RRR")
    assert "..." not in watched.letters


def test_the_same_run_gives_the_same_picture(host):
    watched = forecast(host, shared("sdxl"), 0.5)
    assert torch.equal(sample(watched.model), sample(watched.model))


LOOKS_INTO_GUIDANCE = ["euler_cfg_pp", "euler_ancestral_cfg_pp", "dpmpp_2m_cfg_pp", "dpmpp_2s_ancestral_cfg_pp"]
LOOKS_INTO_GUIDANCE += ["res_multistep_cfg_pp", "gradient_estimation_cfg_pp"]


@pytest.mark.parametrize("sampler", LOOKS_INTO_GUIDANCE)
def test_samplers_that_look_into_guidance_get_a_forecast_of_that_too(host, sampler):
    how = {"sampler": sampler, "cfg": 1.5, "steps": 16}
    full = sample(shared("sdxl"), **how)
    watched = forecast(host, shared("sdxl"), 0.6)
    found = sample(watched.model, **how)
    assert abs(watched.letters.count("R") - 0.6 * len(watched.letters)) <= 1.5
    assert len(watched.calls) == watched.letters.count("R")
    assert relative(found, full) < 0.4


def test_guidance_that_a_sampler_sees_is_exact_where_nothing_is_left_out(host):
    watched = forecast(host, shared("sdxl"), 0.99)
    found = sample(watched.model, sampler="euler_cfg_pp", cfg=1.5)
    assert torch.equal(found, sample(shared("sdxl"), sampler="euler_cfg_pp", cfg=1.5))


def test_a_model_that_looks_into_guidance_is_no_sampler(host):
    seen: list[float] = []
    base = shared("sdxl").clone()
    base.set_model_sampler_post_cfg_function(lambda args: seen.append(1.0) or args["denoised"])
    watched = forecast(host, base, 0.5)
    sample(watched.model)
    assert len(seen) == watched.letters.count("R") == 6


def test_forecasts_stop_by_themselves_on_a_model_of_noise(host, caplog):
    generator = torch.Generator().manual_seed(3)

    def noise(output, sigma):
        return torch.randn(output.shape, generator=generator)

    with answers_replaced(shared("sd15"), noise) as model, caplog.at_level(logging.INFO):
        watched = forecast(host, model, 0.5)
        sample(watched.model, "sd15", steps=14, cfg=1.0)
    assert watched.letters == "R" * 14
    assert "forecasts stopped by themselves" in caplog.text


def test_predictions_that_are_no_numbers_forbid_forecasts(host):
    def broken(output, sigma):
        return output * float("nan") if 1.0 < sigma < 3.0 else output

    with answers_replaced(shared("sd15"), broken) as model:
        watched = forecast(host, model, 0.5)
        sample(watched.model, "sd15")
    measured = [one for one in watched.runs[-1].evaluations if one.measured == float("inf")]
    assert measured
    after = watched.letters[measured[-1].step + 1 :]
    assert "." not in after[:1]


def test_the_log_says_what_was_done(host, caplog):
    watched = forecast(host, shared("sdxl"), 0.5)
    with caplog.at_level(logging.INFO):
        sample(watched.model)
    lines = [one.getMessage() for one in caplog.records if one.getMessage().startswith("Step Forecast")]
    assert len(lines) == 1
    assert "6 of 12 evaluations real (50%, asked for 50%)" in lines[0]


def test_few_steps_are_all_real_and_the_log_says_why(host, caplog):
    watched = forecast(host, shared("sdxl"), 0.5)
    with caplog.at_level(logging.WARNING):
        full = sample(watched.model, steps=4)
    assert torch.equal(full, sample(shared("sdxl"), steps=4))
    assert "4 steps are all real" in caplog.text


def test_every_real_evaluation_after_the_first_has_a_measured_error(host):
    watched = forecast(host, shared("sdxl"), 0.5)
    sample(watched.model)
    real = [one for one in watched.runs[-1].evaluations if one.real]
    assert real[0].measured is None
    assert all(one.measured is not None and one.measured >= 0 for one in real[1:])
    assert all(one.measured is None for one in watched.runs[-1].evaluations if not one.real)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_batch_of_videos_or_sounds_works(host, kind):
    watched = forecast(host, shared(kind), 0.5)
    from tiny_video_and_audio import latent

    one = latent(kind)["samples"]
    found = sample(watched.model, kind, latent={**latent(kind), "samples": one.repeat(2, *[1] * (one.ndim - 1))})
    assert found.shape[0] == 2
    assert "." in watched.letters
