"""What the log says of a run: one line of what was saved, and a reason where nothing was."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from sample_tiny import cond_for
from watching import apply, info_lines, sample, schedule, shared_model, warning_lines, watched_sample

SDXL_TOKENS = {
    **dict.fromkeys(["input 4", "input 5", "output 3", "output 4", "output 5"], 64),
    **dict.fromkeys(["input 7", "input 8", "middle 0", "output 0", "output 1", "output 2"], 16),
}


def test_one_line_a_run(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    patched = apply(host, shared_model("sdxl"))
    assert info_lines(caplog) == []
    sample(patched, steps=3, sampler="heun")
    (line,) = info_lines(caplog)
    # every block is pruned in every call, so the shares follow from the ratio and from rounding to whole tokens
    assert "kept 37" in line
    assert "of tokens" in line
    assert "FLOPs" in line
    assert "pruned 11 of 11 attention blocks" in line
    assert "3 steps" in line
    assert "5 model calls" in line
    assert "interrupted" not in line
    assert warning_lines(caplog) == []
    sample(patched)
    assert len(info_lines(caplog)) == 2


def test_the_line_adds_up(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    """The numbers in it are those of the blocks it ran, not of the settings."""
    caplog.set_level(logging.INFO)
    chosen = schedule(host, early_percent=0.5)
    _, calls = watched_sample(apply(host, shared_model("sdxl"), schedule=chosen), steps=4)
    (line,) = info_lines(caplog)
    tokens = kept = 0
    for call in calls:
        by_name = {event.block.name: event.subset for event in call.events}
        for name in SDXL_TOKENS:
            tokens += SDXL_TOKENS[name]
            kept += by_name[name].kept if name in by_name else SDXL_TOKENS[name]
    assert f"kept {kept / tokens:.1%} of tokens" in line
    tallies = calls.reports[0].tallies.values()
    saved = 1 - sum(t.flops for t in tallies) / sum(t.flops_full for t in tallies)
    assert 0.01 < saved < 0.5
    assert f"saved {saved:.1%}" in line


def test_ratio_zero_is_explained_without_a_warning(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sample(apply(host, shared_model("sdxl"), 0.0))
    assert warning_lines(caplog) == []
    line, why = info_lines(caplog)
    assert "kept 100.0% of tokens" in line
    assert "nothing was pruned: prune_ratio is 0" in why


def test_a_run_that_stays_early_is_explained(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chosen = schedule(host, early_percent=0.9, early_blocks="all")
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(apply(host, shared_model("sdxl"), schedule=chosen))
    guider.set_conds(cond_for("sdxl", 1), cond_for("sdxl", 2))
    latent = torch.zeros(1, 4, 16, 16)
    with torch.inference_mode():  # the first of two samplers, which hands over at a high noise level
        guider.sample(
            torch.randn(1, 4, 16, 16), latent, comfy.samplers.sampler_object("euler"), torch.tensor([14.0, 10.0, 8.0])
        )
    (warning,) = warning_lines(caplog)
    assert "early_percent is 0.9" in warning
    assert "Lower early_percent" in warning


def test_a_grid_too_small_to_prune_is_explained(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    plain = sample(shared_model("sdxl"), width=32, height=32)
    assert torch.equal(sample(apply(host, shared_model("sdxl"), 0.05), width=32, height=32), plain)
    (warning,) = warning_lines(caplog)
    assert "0.05 rounds to no token" in warning
    assert "picture larger" in warning


def test_a_handler_that_comes_first_is_warned_of(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    from comfy.ldm.modules.attention import SpatialTransformer

    def foreign(layer: Any, x: Any, emb: Any, context: Any, options: Any, *rest: Any) -> Any:
        return layer(x, context, options) * 1.01

    model = shared_model("sdxl").clone()
    model.set_model_forward_timestep_embed_patch((SpatialTransformer, foreign))
    expected = sample(model)
    caplog.set_level(logging.INFO)
    patched = apply(host, model)
    (at_once,) = warning_lines(caplog)
    assert __name__ in at_once
    assert "Put AT-EDM Apply before" in at_once
    assert torch.equal(sample(patched), expected)
    _, after_the_run = warning_lines(caplog)
    assert "no attention block came to AT-EDM" in after_the_run


def test_a_handler_that_is_never_asked_is_warned_of(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    from comfy.ldm.modules.attention import SpatialTransformer

    def foreign(*args: Any) -> Any:
        raise AssertionError("the first handler of a kind is the only one that ComfyUI asks")

    patched = apply(host, shared_model("sdxl"))
    both = patched.clone()
    both.set_model_forward_timestep_embed_patch((SpatialTransformer, foreign))
    expected = sample(patched)
    caplog.set_level(logging.INFO)
    assert torch.equal(sample(both), expected)
    (warning,) = warning_lines(caplog)
    assert __name__ in warning
    assert "is not asked" in warning


def test_a_pruned_run_warns_of_nothing(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sample(apply(host, shared_model("sdxl"), schedule=None), steps=4)
    assert warning_lines(caplog) == []
    assert len(info_lines(caplog)) == 1
