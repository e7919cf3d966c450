"""SDXL's layers as the demo times them: they are SDXL's, they add up to its step, and rounds end in time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from demo import sdxl
from demo.sdxl import Step, Stopwatch, measure, summary, together
from demo.sdxl_layers import Layers, Part, chosen_device

pytestmark = pytest.mark.host
RATIO = 0.5


@pytest.fixture(scope="module")
def layers() -> Iterator[Layers]:
    with chosen_device(cpu=True) as (device, dtype):
        assert (device.type, dtype) == ("cpu", torch.float32)
        yield Layers(device, dtype, RATIO)


def test_the_whole_is_sdxl(layers: Layers) -> None:
    assert layers.flops(1024) / 1e12 == pytest.approx(6.761, abs=0.001)


def test_parts_add_up_to_a_step(layers: Layers) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def flops(work: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            work(128)
        return counter.get_total_flops()

    parts = layers.parts()
    counts = {part.name: part.count for part in parts}
    assert (counts["attention at level 1"], counts["attention at level 2"]) == (5, 6)
    assert any(part.pruned for part in parts)
    found = {(part.name, False): float(flops(part.full)) for part in parts}
    found |= {(part.name, True): float(flops(part.pruned)) for part in parts if part.pruned}
    step = together(parts, found)
    assert step.full == pytest.approx(layers.flops(128), rel=0.02)
    assert step.pruned == pytest.approx(layers.flops_pruned(128), rel=0.02)
    assert step.pruned < 0.9 * step.full


def test_pruned_blocks_give_all_tokens_back(layers: Layers) -> None:
    for part in layers.parts():
        if part.pruned is None:
            continue
        full, pruned = part.full(128), part.pruned(128)
        assert full.shape == pruned.shape
        assert torch.isfinite(pruned).all()
        assert not torch.equal(full, pruned)


def test_layers_of_a_block_share_their_memory(layers: Layers) -> None:
    layers.parts()  # which makes those that are timed
    names = {name for name, weight in layers._unet.named_parameters() if weight.device.type != "meta"}
    held = {w.data_ptr(): w.nbytes for w in layers._unet.parameters() if w.device.type != "meta"}
    assert names
    assert sum(held.values()) < 400 * 2**20


class Clock:
    """Seconds of works that take as long as they say."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self, work: Any, size: int) -> float:
        seconds = float(work(size))
        self.now += seconds
        return seconds


@pytest.mark.parametrize(("seconds", "rounds"), [(1.0, 1), (25.0, 2), (1000.0, sdxl.MOST_ROUNDS)])
def test_rounds_end_in_time_and_one_is_always_done(
    seconds: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(sdxl.time, "monotonic", lambda: clock.now)
    parts = [
        Part("attention", 3, lambda size: 6.0 * (size == 1024), lambda size: 3.0 * (size == 1024)),
        Part("convolutions", 2, lambda size: 1.0 * (size == 1024)),
    ]
    steps = measure(parts, clock, seconds)
    assert steps == [Step(20.0, 11.0)] * rounds
    assert summary(steps)["speed_up"] == pytest.approx(20 / 11)


def test_the_speed_up_is_the_median_of_rounds() -> None:
    found = summary([Step(2.0, 1.0), Step(8.0, 2.0), Step(3.0, 1.0)])
    assert (found["speed_up"], found["speed_up_range"], found["rounds"]) == (3.0, [2.0, 4.0], 3)


def test_quick_work_is_called_often_enough_to_be_timed() -> None:
    calls: list[int] = []
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        watch(calls.append, 8)
    assert len(calls) > 100
