"""DSAP against real samplers: which blocks are pruned follows the noise level, however often the model is called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessHost
from watching import Calls, apply, sample, schedule, shared_model, transformers, watched_sample

# by hand, from the order in which SDXL's blocks run
SDXL_STAGE_ENDS = {"input 4", "input 7", "output 2", "output 5"}
SD15_STAGE_ENDS = {"input 1", "input 4", "input 7", "output 5", "output 8", "output 11"}
MANY_CALLS_A_STEP = {"heun", "dpm_2", "dpmpp_sde"}


def names(kind: str) -> set[str]:
    return {f"{part} {index}" for part, index in transformers(shared_model(kind))}


def is_early(sigma: float, percent: float, kind: str = "sdxl") -> bool:
    """ComfyUI's own rule for the start of a range: what begins at a percent is on from its noise level downward."""
    return sigma > shared_model(kind).get_model_object("model_sampling").percent_to_sigma(percent)


def assert_follows(calls: Calls, percent: float, spared: set[str], kind: str = "sdxl") -> None:
    early = [is_early(call.sigma, percent, kind) for call in calls]
    for call, now in zip(calls, early, strict=True):
        assert call.pruned() == (names(kind) - spared if now else names(kind)), call.sigma


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpmpp_sde"])
def test_stage_ends_stay_whole_while_there_is_much_noise(host: InProcessHost, sampler: str) -> None:
    steps = 4
    out, calls = watched_sample(
        apply(host, shared_model("sdxl"), schedule=schedule(host)), sampler=sampler, steps=steps
    )
    assert torch.isfinite(out).all()
    assert_follows(calls, 0.3, SDXL_STAGE_ENDS)
    early = [is_early(call.sigma, 0.3) for call in calls]
    assert any(early)
    assert not all(early)
    # samplers that call the model more than once a step are the reason for not counting calls
    assert (len(calls) > steps) == (sampler in MANY_CALLS_A_STEP)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpmpp_sde"])
def test_a_picture_to_start_from_skips_the_early_phase(host: InProcessHost, sampler: str) -> None:
    """With denoise 0.5 a run starts where the noise range is half over: past 0.3, before 0.6."""
    model = shared_model("sdxl")
    start = {"samples": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))}
    how: dict[str, Any] = {"sampler": sampler, "steps": 3, "denoise": 0.5, "latent": start}
    _, calls = watched_sample(apply(host, model, schedule=schedule(host)), **how)
    assert calls
    assert all(call.pruned() == names("sdxl") for call in calls)
    late = schedule(host, early_percent=0.75)
    _, calls = watched_sample(apply(host, model, schedule=late), **how)
    assert_follows(calls, 0.75, SDXL_STAGE_ENDS)
    assert {is_early(call.sigma, 0.75) for call in calls} == {True, False}


@pytest.mark.parametrize("scheduler", ["karras", "sgm_uniform", "beta"])
def test_schedulers_mean_the_same(host: InProcessHost, scheduler: str) -> None:
    _, calls = watched_sample(apply(host, shared_model("sdxl"), schedule=schedule(host)), scheduler=scheduler, steps=4)
    assert_follows(calls, 0.3, SDXL_STAGE_ENDS)
    assert {is_early(call.sigma, 0.3) for call in calls} == {True, False}


@pytest.mark.parametrize("kind", ["sd15", "sd2"])
def test_stages_follow_from_the_model_not_from_sdxl(host: InProcessHost, kind: str) -> None:
    _, calls = watched_sample(apply(host, shared_model(kind), schedule=schedule(host)), kind, steps=4)
    assert_follows(calls, 0.3, SD15_STAGE_ENDS, kind)
    assert {is_early(call.sigma, 0.3, kind) for call in calls} == {True, False}


@pytest.mark.parametrize(("blocks", "spared"), [("all", None), ("none", set()), ("stage ends", SDXL_STAGE_ENDS)])
def test_the_user_says_which_blocks_are_spared(host: InProcessHost, blocks: str, spared: set[str] | None) -> None:
    chosen = schedule(host, early_percent=0.5, early_blocks=blocks)
    _, calls = watched_sample(apply(host, shared_model("sdxl"), schedule=chosen), steps=4)
    assert_follows(calls, 0.5, names("sdxl") if spared is None else spared)
    assert {is_early(call.sigma, 0.5) for call in calls} == {True, False}


def test_spared_blocks_can_be_pruned_a_little(host: InProcessHost) -> None:
    chosen = schedule(host, early_percent=0.5, early_ratio=0.25)
    _, calls = watched_sample(apply(host, shared_model("sdxl"), schedule=chosen), steps=4)
    shares = set()
    for call in calls:
        for event in call.events:
            spared = is_early(call.sigma, 0.5) and event.block.name in SDXL_STAGE_ENDS
            assert abs(event.subset.kept - event.subset.total * (0.75 if spared else 0.37)) <= 0.5
            shares.add(spared)
    assert shares == {True, False}


def test_early_ratio_never_exceeds_the_ratio(host: InProcessHost) -> None:
    chosen = schedule(host, early_percent=1.0, early_ratio=0.9)
    _, calls = watched_sample(apply(host, shared_model("sdxl"), 0.25, schedule=chosen))
    assert {round(event.subset.kept / event.subset.total, 2) for event in calls.events()} == {0.75}


@pytest.mark.parametrize("percent", [i / 40 for i in range(1, 40)])
def test_a_step_that_lies_exactly_on_the_boundary_is_not_early(host: InProcessHost, percent: float) -> None:
    """As in ComfyUI, where what starts at a percent is on at its noise level, and off just above."""
    progress_of = host.module("patches.host.progress").progress_of
    for kind in ("sdxl", "sd2"):
        to_sigma = shared_model(kind).get_model_object("model_sampling").percent_to_sigma
        sigma = float(torch.tensor(to_sigma(percent)))
        for other_devices_digits in (1 - 1e-7, 1.0, 1 + 1e-7):
            assert progress_of(sigma * other_devices_digits, to_sigma, percent) >= percent
        assert progress_of(sigma * (1 + 1e-4), to_sigma, percent) < percent


@pytest.mark.parametrize("landmark", [0.0, 0.3, 0.95, 1.0])
def test_progress_inverts_the_models_own_function(host: InProcessHost, landmark: float) -> None:
    progress = host.module("patches.host.progress")
    for kind in ("sdxl", "sd2"):
        sampling = shared_model(kind).get_model_object("model_sampling")
        on_cpu = progress.percent_to_sigma_on_cpu(sampling)
        for percent in (0.01, 0.2, 0.3, 0.5, 0.77, 0.99):
            assert on_cpu(percent) == sampling.percent_to_sigma(percent)
            assert progress.progress_of(on_cpu(percent), on_cpu, landmark) == pytest.approx(percent, abs=1e-3)


def test_noise_levels_are_asked_of_a_copy(host: InProcessHost) -> None:
    """The loaded model's tables lie on the GPU; the copy is on the CPU and shares nothing."""
    sampling = shared_model("sdxl").get_model_object("model_sampling")
    copied = host.module("patches.host.progress").percent_to_sigma_on_cpu(sampling).__self__
    assert copied is not sampling
    assert copied.log_sigmas.data_ptr() != sampling.log_sigmas.data_ptr()


def test_the_whole_range_is_early_at_one_hundred_percent(host: InProcessHost) -> None:
    """The last step's noise level is the lowest there is, and still not the end."""
    chosen = schedule(host, early_percent=1.0, early_blocks="all")
    _, calls = watched_sample(apply(host, shared_model("sdxl"), schedule=chosen), steps=3)
    assert len(calls) == 3
    assert not calls.events()


def test_no_early_phase_at_zero_percent_however_much_noise(host: InProcessHost) -> None:
    to_sigma = shared_model("sdxl").get_model_object("model_sampling").percent_to_sigma
    progress_of = host.module("patches.host.progress").progress_of
    assert progress_of(1e6, to_sigma, 0.0) == progress_of(50.0, to_sigma, 0.0) == 0.0
    assert progress_of(0.0, to_sigma, 0.0) == pytest.approx(1.0, abs=1e-3)
    _, calls = watched_sample(apply(host, shared_model("sdxl"), schedule=schedule(host, early_percent=0.0)))
    assert all(call.pruned() == names("sdxl") for call in calls)


def test_progress_is_read_once_per_call_not_per_block(host: InProcessHost, monkeypatch: Any) -> None:
    """Reading a noise level back makes a GPU wait."""
    run = host.module("patches.unet.run")
    asked: list[float] = []
    original = run.progress_of
    monkeypatch.setattr(run, "progress_of", lambda sigma, *rest: asked.append(sigma) or original(sigma, *rest))
    sample(apply(host, shared_model("sdxl")), sampler="heun", steps=3)
    assert asked
    assert len(asked) == len(set(asked))
