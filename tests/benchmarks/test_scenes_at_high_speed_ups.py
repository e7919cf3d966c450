"""Whether pictures still show the same scene at high speed-ups: what is drawn, kept and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.lab.cases import Sampling
from benchmarks.lab.unet import scenes


def drawn_by_steps(session: Any, contender: Any, captions: Any) -> tuple[torch.Tensor, float]:
    """A run of fewer steps makes another picture; one that is sped up makes the same for less."""
    fewer = contender.sampling.steps
    auto = contender.method == scenes.AUTO
    flops = fewer / (contender.setting if auto else 1.0)
    return torch.full((len(captions), 4, 32, 32), float(fewer)), flops


@pytest.fixture
def quick(comfyui: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def pictures(vae: Any, latents: torch.Tensor) -> torch.Tensor:
        shade = (latents[:, 0].mean(dim=(1, 2)) * 4).to(torch.uint8)
        return shade[:, None, None, None].expand(-1, 256, 256, 3).clone()

    monkeypatch.setattr(scenes, "draw", drawn_by_steps)
    monkeypatch.setattr(scenes, "decoded", pictures)
    monkeypatch.setattr(scenes.Session, "open", lambda **_: type("Loaded", (), {"vae": None})())
    monkeypatch.setattr(scenes, "RESULT", tmp_path / "scenes.json")
    document = tmp_path / "forecasts.md"
    document.write_text("before\n\n<!-- table scenes -->\n\n<!-- end -->\n")
    monkeypatch.setattr(scenes, "DOCUMENT", document)
    return tmp_path


def test_auto_and_fewer_steps_are_asked_at_one_cost(comfyui: None) -> None:
    asked = {steps: [one.sampling.steps for one in scenes.contenders(Sampling(steps))] for steps in scenes.SPEED_UPS}
    assert asked == {50: [50, 17], 20: [20, 10], 8: [8, 5]}


def test_the_table_counts_pictures_that_show_the_same_and_a_second_run_draws_nothing(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--captions", "8", "--out", str(quick / "out")]
    assert scenes.main(arguments) == 0
    told = (quick / "forecasts.md").read_text()
    assert "| photographs: euler, 20 steps, 2x | 8 | 8 of 8, 80.0 dB (50%) |" in told
    assert "| photographs: dpmpp_2m, 8 steps, 1.5x | 8 | 8 of 8, 80.0 dB (67%) |" in told
    assert "(34%)" in told
    monkeypatch.setattr(scenes.Session, "open", lambda **_: pytest.fail("nothing is left to draw"))
    assert scenes.main(arguments) == 0
    assert (quick / "forecasts.md").read_text() == told


def test_what_was_measured_elsewhere_is_kept(quick: Path) -> None:
    assert scenes.main(["--captions", "4", "--out", str(quick / "one")]) == 0
    assert scenes.main(["--captions", "8", "--out", str(quick / "another")]) == 0
    rows = [line for line in (quick / "another" / "rows.jsonl").read_text().splitlines() if line]
    assert len(rows) == 2 * 2 * 3
    assert np.all([f'"number": {1}' in row for row in rows])
