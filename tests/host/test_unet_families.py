"""AT-EDM acts on every U-Net family it names: where tokens are dropped, how many, and that it shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessHost
from watching import RATIO, apply, assert_pruned, layer_tokens, sample, shared_model, transformers, watched_sample

from benchmarks import random_models as tiny_models


def kept(tokens: int, ratio: float = RATIO) -> int:
    return max(1, round(tokens * (1 - ratio)))


@pytest.mark.parametrize("kind", tiny_models.UNETS)
def test_tokens_are_dropped_and_the_picture_changes(host: InProcessHost, kind: str) -> None:
    model = shared_model(kind)
    plain = sample(model, kind)
    out, calls = watched_sample(apply(host, model), kind)
    assert_pruned(calls, out)
    assert out.shape == plain.shape
    assert not torch.equal(out, plain)
    names = {f"{part} {index}" for part, index in transformers(model)}
    assert all(call.pruned() == names for call in calls)
    (report,) = calls.reports
    assert {name for _, name in report.tallies} == names
    for spent in report.tallies.values():
        assert spent.calls == spent.pruned_calls == len(calls)
        assert spent.kept < 0.4 * spent.tokens
        # Of a single layer as narrow as this one's, regression costs more than pruning saves.
        assert spent.flops < spent.flops_full or kind == "sd15"
    _, calls = watched_sample(apply(host, model, recovery="update"), kind)
    for spent in calls.reports[0].tallies.values():
        assert spent.flops < spent.flops_full


@pytest.mark.parametrize("kind", tiny_models.UNETS)
def test_every_layer_runs_on_as_many_tokens_as_designed(host: InProcessHost, kind: str) -> None:
    """Blocks of one layer drop tokens inside it, after self-attention; deeper blocks after their first layer."""
    model = shared_model(kind)
    with layer_tokens(model) as plain:
        sample(model, kind, steps=1)
    with layer_tokens(model) as pruned:
        sample(apply(host, model), kind, steps=1)
    assert plain.keys() == pruned.keys()
    depths = {place: len(block.transformer_blocks) for place, block in transformers(model).items()}
    for (part, index, layer), passes in plain.items():
        for before, after in zip(passes, pruned[part, index, layer], strict=True):
            full = before["attn1"]
            few = kept(full)
            assert before == {"attn1": full, "attn2": full, "ff": full}
            if layer > 0:
                assert after == {"attn1": few, "attn2": few, "ff": few}
            elif depths[part, index] == 1:
                assert after == {"attn1": full, "attn2": few, "ff": few}
            else:
                assert after == before


def test_both_depths_of_block_occur_among_the_families() -> None:
    """Else the test above would say nothing about one of them."""
    depths = {
        kind: {len(b.transformer_blocks) for b in transformers(shared_model(kind)).values()}
        for kind in tiny_models.UNETS
    }
    assert depths["sdxl"] == {2, 3}
    assert depths["sd15"] == depths["sd2"] == {1}
    assert depths["ssd1b"] == {1, 2, 3, 4}
    assert depths["vega"] == {1, 2}


def test_half_precision_models_are_pruned(host: InProcessHost) -> None:
    model = tiny_models.KINDS["sdxl"].build(dtype=torch.bfloat16)
    out, calls = watched_sample(apply(host, model))
    assert_pruned(calls, out)
    assert torch.equal(out, sample(apply(host, model)))


@pytest.mark.parametrize("selection", ["stratified", "top-k"])
@pytest.mark.parametrize("recovery", ["regression", "update", "copy", "zero", "interpolate"])
def test_every_selection_and_recovery_samples(host: InProcessHost, selection: str, recovery: str) -> None:
    model = shared_model("sdxl")
    attending = {"ranking": "self-attention"}
    default = sample(apply(host, model, **attending), steps=1)
    out, calls = watched_sample(apply(host, model, selection=selection, recovery=recovery, **attending), steps=1)
    assert_pruned(calls, out)
    assert torch.equal(out, default) == ((selection, recovery) == ("stratified", "regression"))


@pytest.mark.parametrize(
    "inputs",
    [
        {"stand_in": "attention"},
        {"stand_in": "grid"},
        {"iterations": 5},
        {"ranking": "cross-attention"},
        {"ranking": "redundancy"},
    ],
)
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_every_advanced_input_acts(host: InProcessHost, kind: str, inputs: dict[str, Any]) -> None:
    model = shared_model(kind)
    attending = {"ranking": "self-attention"}
    default = sample(apply(host, model, **attending), kind, steps=1)
    out, calls = watched_sample(apply(host, model, **{**attending, **inputs}), kind, steps=1)
    assert_pruned(calls, out)
    assert not torch.equal(out, default)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.95])
def test_the_ratio_says_how_many_tokens_go(host: InProcessHost, ratio: float) -> None:
    out, calls = watched_sample(apply(host, shared_model("sdxl"), ratio), steps=1)
    assert_pruned(calls, out, ratio)


def test_tokens_seen_by_the_ranking_are_those_of_the_layer(host: InProcessHost, monkeypatch: Any) -> None:
    """The queries and keys taken from the host's own attention call are what projecting afresh gives."""
    view = host.module("patches.unet.attention_view").AttentionView
    checked = []
    original = view.attention

    def compare(self: Any) -> Any:
        assert self._self is not None
        seen = original(self)
        attention, hidden = self._layer.attn1, self._layer.norm1(self._hidden)
        for found, expected in zip(
            (seen.queries, seen.keys), (attention.to_q(hidden), attention.to_k(hidden)), strict=True
        ):
            batch, tokens, width = expected.shape
            heads = expected.reshape(batch, tokens, self._layer.n_heads, width // self._layer.n_heads).transpose(1, 2)
            assert torch.equal(found, heads)
        checked.append(seen)
        return seen

    monkeypatch.setattr(view, "attention", compare)
    for kind in ("sdxl", "sd15"):
        sample(apply(host, shared_model(kind), ranking="self-attention"), kind, steps=1)
    assert checked
