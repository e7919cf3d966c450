"""AT-EDM Budget: what its report promises is what a run with its ratio then saves."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from watching import apply, info_lines, sample, schedule, shared_model, watched_sample

SIZE = {"width": 256, "height": 256}
WANTED = 0.1
AT_THE_START = {"prune_from": "block start", "ranking": "self-attention", "rank_interval": 1}
INSIDE = {"prune_from": "inside first layer", "ranking": "self-attention", "rank_interval": 1}


def budget(host: InProcessHost, saving: float = WANTED, **inputs: Any) -> tuple[float, str]:
    """The ratio and the report for the tiny SDXL, pruned from the first step on at all levels unless said otherwise."""
    inputs.setdefault("schedule", schedule(host, early_percent=0.0))
    ratio, report = host.call("ATEDMBudget", model=shared_model("sdxl"), saving=saving, **SIZE, **inputs)
    return float(ratio), str(report)


def rows(report: str) -> dict[str, list[str]]:
    """The table's rows as words, by level."""
    table = report.split("\n\n")[1].splitlines()
    return {row.split()[0]: row.split()[1:] for row in table[1:]}


def test_the_report_names_ratio_saving_and_every_level(host: InProcessHost) -> None:
    ratio, report = budget(host)
    promised = re.match(r"prune_ratio (\d\.\d{4}) at 256 x 256: .* TFLOPs a step, (\d+\.\d)% saved, ideal", report)
    assert promised
    assert float(promised[1]) == pytest.approx(ratio, abs=5e-5)
    assert WANTED <= float(promised[2]) / 100 < WANTED + 0.006
    table = rows(report)
    assert list(table) == ["half", "quarter", "other"]
    assert table["half"][:4] == ["16", "x", "16", "5"]
    assert table["quarter"][:4] == ["8", "x", "8", "6"]
    assert all(0 < float(table[level][-1].rstrip("%")) < 100 for level in ("half", "quarter"))
    assert "0.0%  convolutions, not pruned" in report


def test_nothing_to_save_is_nothing_saved_anywhere(host: InProcessHost) -> None:
    ratio, report = budget(host, saving=0.0)
    assert ratio == 0.0
    assert "0.0% saved, ideal speed-up 1.00x" in report
    assert {row[-1] for name, row in rows(report).items() if name != "other"} == {"0.0%"}


def test_a_ranking_at_every_step_promises_no_more_than_it_can_save(
    host: InProcessHost, caplog: pytest.LogCaptureFixture
) -> None:
    """A block that ranks by its attention cannot drop tokens before that attention ran, whatever was asked for."""
    ratio, report = budget(host, **AT_THE_START)
    assert (ratio, report) == budget(host, **INSIDE)
    assert ratio > budget(host, prune_from="block start")[0], "a ranking without attention drops them at the start"
    assert ratio > budget(host, **{**AT_THE_START, "rank_interval": 4})[0]

    caplog.set_level(logging.INFO)
    patched = apply(host, shared_model("sdxl"), ratio, **AT_THE_START)
    _, calls = watched_sample(patched, steps=2, cfg=1.0, **SIZE)
    (line,) = info_lines(caplog)
    found = re.search(r"saved (\d+\.\d%) of attention block FLOPs \(planned (\d+\.\d%)\)", line)
    assert found
    assert found[1] == found[2]
    spent = calls.reports[0].tallies.values()
    saved = sum(one.flops_full - one.flops for one in spent)
    full = 2 * host.module("atedm_core.unet.flops").unet_flops(patched_structure(host), (32, 32))
    assert f"{saved / full:.1%} saved" in report


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"schedule": None},
        {"schedule": None, "recovery": "update", "merge": "none"},
        {"recovery": "update", "merge": "none"},
        {"recovery": "copy", "stand_in": "grid", "ranking": "none"},
        {"ranking": "self-attention", "iterations": 3, "voters": "all", "stand_in": "attention"},
        {"ranking": "self-attention", "rank_interval": 2, "prune_from": "block start"},
    ],
)
def test_a_run_saves_what_the_budget_promised_whatever_it_spends_on_choosing(
    host: InProcessHost, inputs: dict[str, Any]
) -> None:
    ratio, report = budget(host, 0.02, **inputs)
    assert 0 < ratio < 0.95
    patched = apply(host, shared_model("sdxl"), ratio, **inputs)
    _, calls = watched_sample(patched, steps=2, cfg=1.0, **SIZE)
    saved = sum(one.flops_full - one.flops for one in calls.reports[0].tallies.values())
    full = 2 * host.module("atedm_core.unet.flops").unet_flops(patched_structure(host), (32, 32))
    assert f"{saved / full:.1%} saved" in report


def patched_structure(host: InProcessHost) -> Any:
    """Of the tiny SDXL."""
    return host.module("patches.unet.structure").describe_unet(shared_model("sdxl").model.diffusion_model)


def test_a_latent_stands_for_width_and_height(host: InProcessHost) -> None:
    latent = {"samples": torch.zeros(1, 4, 32, 48)}
    by_latent = host.call("ATEDMBudget", model=shared_model("sdxl"), saving=WANTED, latent=latent, width=64, height=64)
    by_size = host.call("ATEDMBudget", model=shared_model("sdxl"), saving=WANTED, width=384, height=256)
    assert by_latent == by_size
    assert "at 384 x 256" in by_latent[1]


@pytest.mark.parametrize(("side", "warned"), [(256, False), (384, True)])
def test_a_run_of_another_size_than_planned_is_warned_of(
    host: InProcessHost, caplog: pytest.LogCaptureFixture, side: int, warned: bool
) -> None:
    ratio, _ = host.call("ATEDMBudget", model=shared_model("sdxl"), saving=WANTED, width=256, height=256)
    patched = apply(host, shared_model("sdxl"), ratio)
    latent = sample(patched, steps=1, width=side, height=side)
    told = [entry.message for entry in caplog.records if "was planned for a latent of 32 x 32" in entry.message]
    assert len(told) == warned
    text = host.call("ATEDMReport", model=patched, result={"samples": latent})[2]
    assert ("this run's is 48 x 48" in text) == warned


def test_the_budget_names_itself_where_it_cannot_plan(host: InProcessHost) -> None:
    with pytest.raises(ValueError, match=r"^Take AT-EDM Budget out of this model's path.*AT-EDM Auto"):
        host.call("ATEDMBudget", model=shared_model("sd3"))
