"""The benchmark's token merging: every part of every layer runs on the tokens that the FLOPs formula counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from sample_tiny import cond_for, ksample
from watching import shared_model

from benchmarks.checkpoint.at_edm_bench_tome.node import merge_everywhere

RATIO = 0.6
PARTS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ff.net.0")


def sampled(model: Any) -> torch.Tensor:
    return ksample(model, cond_for("sdxl"), cond_for("sdxl", seed=2), steps=2)


def tokens_of_parts(model: Any, run: Callable[[], Any]) -> dict[str, set[int]]:
    """How many tokens each part of each layer ran on, by the name of the layer and the part."""
    seen: dict[str, set[int]] = {}
    handles = []
    for name, module in model.model.diffusion_model.named_modules():
        if ".transformer_blocks." in name and name.endswith(PARTS):

            def note(module: Any, inputs: Any, name: str = name) -> None:
                seen.setdefault(name, set()).add(inputs[0].shape[1])

            handles.append(module.register_forward_pre_hook(note))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_every_part_of_every_layer_runs_on_merged_tokens(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    full = tokens_of_parts(model, lambda: sampled(model))
    merged = tokens_of_parts(model, lambda: sampled(merge_everywhere(model, RATIO)))
    assert full.keys() == merged.keys()
    assert {name.split(".transformer_blocks.")[1].split(".", 1)[1] for name in full} == set(PARTS)
    for name, counts in full.items():
        (tokens,) = counts
        assert tokens >= 64
        assert merged[name] == {tokens - int(tokens * RATIO)}


def test_the_model_itself_is_left_as_it_was(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    before = sampled(model)
    changed = sampled(merge_everywhere(model, RATIO))
    assert not torch.equal(before, changed)
    assert torch.equal(sampled(merge_everywhere(model, RATIO)), changed)
    assert torch.equal(sampled(model), before)


@pytest.mark.parametrize("size", [(256, 256), (200, 328)])
def test_more_merging_is_farther_and_odd_grids_work(host: InProcessHost, size: tuple[int, int]) -> None:
    model = shared_model("sdxl")

    def run(one: Any) -> torch.Tensor:
        return ksample(one, cond_for("sdxl"), cond_for("sdxl", seed=2), steps=2, width=size[0], height=size[1])

    before = run(model)
    little, much = (float((run(merge_everywhere(model, ratio)) - before).norm()) for ratio in (0.1, 0.74))
    assert 0 < little < much
