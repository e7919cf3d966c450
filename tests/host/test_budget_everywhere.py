"""AT-EDM Auto's budget on every sampler with every scheduler that the host has.

All pairs take minutes, so they run with ATEDM_EVERY_SAMPLER=1; by default every sampler meets one scheduler, in turn.
"""

from __future__ import annotations

import os
import re

import pytest
import torch
from in_process import InProcessHost
from watching import sample, shared_model

STEPS = 20
SPEED_UP = 2.0
CLOSE = 0.03
KIND = "deep sdxl"
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_the_budget_is_met(host: InProcessHost, caplog: pytest.LogCaptureFixture, part: int) -> None:
    import comfy.samplers

    caplog.set_level("INFO")
    schedulers = list(comfy.samplers.KSampler.SCHEDULERS)
    every = bool(os.environ.get("ATEDM_EVERY_SAMPLER"))
    missed = {}
    for place, sampler in enumerate(comfy.samplers.KSampler.SAMPLERS):
        if place % PARTS != part:
            continue
        for scheduler in schedulers if every else [schedulers[place % len(schedulers)]]:
            caplog.clear()
            model = host.call("ATEDMAuto", model=shared_model(KIND), speed_up=SPEED_UP)[0]
            out = sample(model, KIND, steps=STEPS, sampler=sampler, scheduler=scheduler, cfg=1.0)
            (line,) = [entry.message for entry in caplog.records if entry.message.startswith("AT-EDM Auto")]
            found = re.search(r"reached (\d+\.\d+)x", line)
            reached = float(found[1]) if found else 0.0
            print(f"{sampler} {scheduler} {reached}")
            if abs(reached / SPEED_UP - 1) > CLOSE or not torch.isfinite(out).all():
                missed[sampler, scheduler] = line
    assert missed == {}
