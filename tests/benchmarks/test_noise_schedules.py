"""Auto on other noise schedules: what is asked for, kept and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.lab.cases import Sampling
from benchmarks.lab.drawing import SDXL_LEVELS, sigmas_of
from benchmarks.lab.unet import schedules


def drawn(session: Any, contender: Any, captions: Any) -> tuple[torch.Tensor, float]:
    """Fewer steps are further from the full run than what is sped up, the more the fewer; both cost as asked."""
    torch.manual_seed(0)
    latents = torch.randn(len(captions), 4, 32, 32)
    flops = contender.sampling.steps / (contender.setting if contender.method == schedules.AUTO else 1.0)
    error = {"full": 0.0, schedules.AUTO: 0.01}.get(contender.method, 0.1 * contender.setting)
    return latents + error * torch.randn_like(latents), flops


@pytest.fixture
def quick(comfyui: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(schedules, "draw", drawn)
    monkeypatch.setattr(schedules.Session, "open", lambda **_: object())
    monkeypatch.setattr(schedules, "RESULT", tmp_path / "schedules.json")
    document = tmp_path / "forecasts.md"
    blocks = [f"<!-- table {name} -->\n\n<!-- end -->" for name in ("schedules", "schedules_summary")]
    document.write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.setattr(schedules, "DOCUMENT", document)
    return tmp_path


def test_the_table_has_auto_beside_fewer_steps_and_a_second_run_draws_nothing(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--schedules", "karras", "--samplers", "euler", "--out", str(quick / "out")]
    assert schedules.main(arguments) == 0
    told = (quick / "forecasts.md").read_text(encoding="utf-8")
    row = next(line for line in told.splitlines() if line.startswith("| karras, euler, 20 steps |"))
    costs = [cell.partition("(")[2].rstrip(") ") for cell in row.split("|")[2:8]]
    assert costs == ["62%", "60%", "50%", "50%", "33%", "35%"]
    assert "Auto is nearer than fewer steps in 3 of 3 cells" in told
    monkeypatch.setattr(schedules, "draw", lambda *_: pytest.fail("nothing is left to draw"))
    assert schedules.main(arguments) == 0


def test_schedules_of_sdxl_go_over_its_noise_levels(comfyui: None) -> None:
    for name in ("karras of SDXL", "exponential of SDXL"):
        sigmas = sigmas_of(None, Sampling(12, scheduler=name))
        assert len(sigmas) == 13
        assert (float(sigmas[0]), float(sigmas[-2])) == pytest.approx(SDXL_LEVELS[::-1], rel=1e-4)
        assert float(sigmas[-1]) == 0.0
