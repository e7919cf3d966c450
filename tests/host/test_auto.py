"""AT-EDM Auto: what it chooses once a run's sampler and steps are known, and what the run then does."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sample_transformers
import torch
from in_process import InProcessHost
from watching import apply, sample, shared_model, watched_sample


def auto(host: InProcessHost, model: Any, speed_up: float) -> Any:
    return host.call("ATEDMAuto", model=model, speed_up=speed_up)[0]


def said(caplog: pytest.LogCaptureFixture) -> str:
    (line,) = [entry.message for entry in caplog.records if entry.message.startswith("AT-EDM Auto")]
    return line


def reached(line: str) -> float:
    found = re.search(r"reached (\d+\.\d+)x", line)
    assert found, line
    return float(found[1])


def test_off_is_off(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    assert torch.equal(sample(auto(host, model, 1.0)), sample(model))


@pytest.mark.parametrize("speed_up", [1.3, 1.6])
def test_few_steps_of_a_unet_are_pruned(host: InProcessHost, caplog: pytest.LogCaptureFixture, speed_up: float) -> None:
    caplog.set_level("INFO")
    _, calls = watched_sample(auto(host, shared_model("sdxl"), speed_up), steps=4, cfg=1.0)
    assert len(calls) == 4
    assert all(call.events for call in calls)
    assert "drop" in said(caplog)
    assert "forecast" not in said(caplog)
    assert reached(said(caplog)) == pytest.approx(min(speed_up, 1.31), rel=0.01)


def test_many_steps_are_forecast(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = shared_model("sdxl")
    out = sample(auto(host, model, 1.5), steps=20, cfg=1.0)
    assert torch.isfinite(out).all()
    assert not torch.equal(out, sample(model, steps=20, cfg=1.0))
    assert "forecast" in said(caplog)


def test_few_steps_of_a_transformer_run_in_full_and_the_log_says_so(
    host: InProcessHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = sample_transformers.shared("sd3")
    out = sample_transformers.sample(auto(host, model, 1.6), "sd3", steps=4)
    assert torch.equal(out, sample_transformers.sample(model, "sd3", steps=4))
    assert "run in full" in said(caplog)
    assert "tokens are not pruned" in said(caplog)


@pytest.mark.parametrize(("steps", "speed_up", "forecast"), [(8, 1.6, False), (20, 2.0, True)])
def test_a_transformer_is_forecast_and_its_tokens_are_pruned(
    host: InProcessHost, caplog: pytest.LogCaptureFixture, steps: int, speed_up: float, forecast: bool
) -> None:
    caplog.set_level("INFO")
    model = sample_transformers.shared("sd3")
    how = {"width": 272, "height": 272, "steps": steps}
    patched = auto(host, model, speed_up)
    out = sample_transformers.sample(patched, "sd3", **how)
    line = said(caplog)
    assert torch.isfinite(out).all()
    assert not torch.equal(out, sample_transformers.sample(model, "sd3", **how))
    assert "of the tokens" in line
    assert ("forecast" in line) == forecast
    assert reached(line) == pytest.approx(speed_up, rel=0.06)
    again = auto(host, host.call("CATPruningApply", model=patched)[0], speed_up)
    assert torch.equal(sample_transformers.sample(again, "sd3", **how), out), "what was on the model is replaced"


@pytest.mark.parametrize("speed_up", [1.25, 1.6])
def test_a_transformer_is_forecast_alone_as_long_as_enough_evaluations_stay(
    host: InProcessHost, caplog: pytest.LogCaptureFixture, speed_up: float
) -> None:
    caplog.set_level("INFO")
    sample_transformers.sample(auto(host, sample_transformers.shared("sd3"), speed_up), "sd3", steps=20)
    assert "forecast" in said(caplog)
    assert "of the tokens" not in said(caplog)
    assert speed_up <= reached(said(caplog)) < 20 / (20 / speed_up - 1)


def test_tokens_alone_are_pruned_where_a_sampler_adds_noise(
    host: InProcessHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = auto(host, sample_transformers.shared("sd3"), 1.6)
    sample_transformers.sample(model, "sd3", steps=20, sampler="euler_ancestral")
    assert "of the tokens" in said(caplog)
    assert "forecast" not in said(caplog)
    assert reached(said(caplog)) == pytest.approx(1.6, rel=0.06)


def test_while_sampling_it_says_that_tokens_of_a_transformer_are_pruned(host: InProcessHost) -> None:
    module = host.module("patches.steps.auto")
    runs: list[Any] = []
    told: list[str] = []
    begun = module._begin

    def note(args: dict[str, Any]) -> torch.Tensor:
        told.append(runs[-1].doing())
        denoised: torch.Tensor = args["denoised"]
        return denoised

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_begin", lambda *given: runs.append(begun(*given)) or runs[-1])
        model = auto(host, sample_transformers.shared("sd3"), 1.6)
        model.set_model_sampler_post_cfg_function(note)
        sample_transformers.sample(model, "sd3", steps=8, width=272, height=272)
    assert told[0] == "full"
    assert "pruned" in told


def test_it_replaces_what_is_on_the_model_and_itself(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    plain = sample(auto(host, model, 1.4), steps=4)
    assert torch.equal(sample(auto(host, apply(host, model), 1.4), steps=4), plain)
    assert torch.equal(sample(auto(host, auto(host, model, 3.0), 1.4), steps=4), plain)
    assert torch.equal(sample(auto(host, apply(host, model), 1.0), steps=4), sample(model, steps=4))


def test_the_model_given_is_left_as_it_is(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    before = sample(model)
    auto(host, model, 2.0)
    assert torch.equal(sample(model), before)


def test_a_speed_up_out_of_range_is_named(host: InProcessHost) -> None:
    with pytest.raises(ValueError, match="speed_up is 9"):
        auto(host, shared_model("sdxl"), 9.0)


def test_the_report_tells_what_was_pruned_and_forecast(host: InProcessHost) -> None:
    pruned = auto(host, shared_model("sdxl"), 1.3)
    latent = sample(pruned, steps=4)
    text = host.call("ATEDMReport", model=pruned, result={"samples": latent})[2]
    assert "of tokens kept" in text
    assert "4 steps" in text
    forecast = host.call("StepForecastApply", model=shared_model("sdxl"), compute=0.5)[0]
    latent = sample(forecast, steps=8)
    text = host.call("ATEDMReport", model=forecast, result={"samples": latent})[2]
    assert "of 8 evaluations" in text
    both = auto(host, shared_model("sdxl"), 1.6)
    latent = sample(both, steps=20, cfg=1.0)
    maps, chart, text = host.call("ATEDMReport", model=both, result={"samples": latent})
    assert text.startswith("AT-EDM Auto: ")
    assert "of 20 evaluations" in text
    assert maps.ndim == chart.ndim == 4


def test_a_run_at_1_is_what_a_speed_up_is_measured_against(host: InProcessHost) -> None:
    off = auto(host, shared_model("sdxl"), 1.0)
    latent = sample(off, steps=4)
    text = host.call("ATEDMReport", model=off, result={"samples": latent})[2]
    assert "nothing was left out" in text
