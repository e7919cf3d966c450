"""AT-EDM on the host's different attention functions: PyTorch's, and those of machines and flags without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessHost
from watching import apply, assert_pruned, relative_error, same_choices, sample, shared_model, watched_sample

BACKENDS = ("attention_pytorch", "attention_sub_quad", "attention_split", "attention_basic")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What --use-pytorch-cross-attention, --use-quad-cross-attention and --use-split-cross-attention set; the second
    is the CPU's default.
    """
    import comfy.ldm.modules.attention as attention

    chosen = getattr(attention, request.param)
    monkeypatch.setattr(attention, "optimized_attention", chosen)
    monkeypatch.setattr(attention, "optimized_attention_masked", chosen)
    return str(request.param)


@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_pruning_works(host: InProcessHost, backend: str, kind: str) -> None:
    model = shared_model(kind)
    out, calls = watched_sample(apply(host, model), kind)
    assert_pruned(calls, out)
    assert torch.equal(out, sample(apply(host, model), kind))
    assert not torch.equal(out, sample(model, kind))
    assert torch.equal(sample(apply(host, model, 0.0), kind), sample(model, kind))


def test_the_ranking_sees_this_backends_queries_and_keys(host: InProcessHost, backend: str) -> None:
    """Every backend goes through the same hook, so nothing has to be projected twice."""
    view = host.module("patches.unet.attention_view").AttentionView
    seen = []
    original = view.attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "attention", lambda self: seen.append(self._self is not None) or original(self))
        sample(apply(host, shared_model("sdxl"), ranking="self-attention"), steps=1)
    assert seen
    assert all(seen)


def test_all_backends_give_one_picture(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to rounding, where rounding did not turn a ranking around."""
    import comfy.ldm.modules.attention as attention

    model = apply(host, shared_model("sdxl"))
    results = {}
    for name in BACKENDS:
        with monkeypatch.context() as patch:
            patch.setattr(attention, "optimized_attention", getattr(attention, name))
            results[name] = watched_sample(model, cfg=2.0)
    reference, calls = results.pop("attention_pytorch")
    compared = 0
    for out, others in results.values():
        if same_choices(calls.events(), others.events()):
            assert relative_error(out, reference) < 1e-4
            compared += 1
    assert compared >= 2


def test_an_override_to_another_backend(host: InProcessHost) -> None:
    """Nodes that choose an attention function for one model set it in the options."""
    import comfy.ldm.modules.attention as attention

    asked: list[Any] = []

    def override(original: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        asked.append(original)
        out: torch.Tensor = attention.attention_sub_quad(*args, **kwargs)
        return out

    model = apply(host, shared_model("sdxl"))
    clone = model.clone()
    clone.model_options["transformer_options"]["optimized_attention_override"] = override
    out, calls = watched_sample(clone, cfg=2.0)
    assert_pruned(calls, out)
    assert len(asked) == len(calls) * 2 * (5 * 2 + 6 * 3)
    expected, others = watched_sample(model, cfg=2.0)
    assert relative_error(out, expected) < 1e-4 or not same_choices(calls.events(), others.events())


def test_a_function_that_only_has_the_name_of_pytorchs_is_called(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another pack's attention may be called what the host's is; the host's own is run with its log-sum-exp."""
    import comfy.ldm.modules.attention as attention

    own, asked = attention.attention_pytorch, []

    @attention.wrap_attn
    def attention_pytorch(*args: Any, **kwargs: Any) -> torch.Tensor:
        asked.append(args[0].shape)
        out: torch.Tensor = own(*args, **kwargs)
        return out

    called, with_log_sum_exp = [], host.module("patches.unet.attention_view")
    original = with_log_sum_exp.attention_with_log_sum_exp
    monkeypatch.setattr(
        with_log_sum_exp, "attention_with_log_sum_exp", lambda *args: called.append(1) or original(*args)
    )
    model = apply(host, shared_model("sdxl"), ranking="self-attention")
    monkeypatch.setattr(attention, "optimized_attention", own)
    sample(model, steps=1)
    assert called
    called.clear()
    monkeypatch.setattr(attention, "optimized_attention", attention_pytorch)
    sample(model, steps=1)
    assert asked
    assert not called
