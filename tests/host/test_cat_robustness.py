"""CAT Pruning beside a cache that answers steps, a host that batches otherwise midway, and errors of its own."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cat_watching import SIZE, TOKENS, WARMUP, cat, kept_objects, watched
from in_process import InProcessHost
from reporting import records
from sample_transformers import prompt, sample, shared
from watching import relative_error

HOW = {"width": SIZE, "height": SIZE}
STEPS = 8
CLOSE = 1e-5
EASY = {"start_percent": 0.15, "end_percent": 0.95, "verbose": False}


@pytest.fixture(autouse=True)
def _all_levels(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO)
    host.module("patches.host.finished_runs").forget_all()
    yield
    host.module("patches.host.finished_runs").forget_all()


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == level and record.getMessage().startswith("CAT Pruning")
    ]


def counting_passes(model: Any, kind: str) -> tuple[list[int], Any]:
    """Tokens that reached the last layer in every pass of the model, and what stops the counting."""
    inner = model.model.diffusion_model
    last = inner.final_linear if kind == "auraflow" else inner.final_layer
    seen: list[int] = []
    return seen, last.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))


@pytest.mark.parametrize("threshold", [0.2, 0.5])
@pytest.mark.parametrize("kind", ["flux", "auraflow"])
def test_easy_cache_and_pruning_share_a_run(
    host: InProcessHost, kind: str, threshold: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Pruning goes on after a step that the cache answered, and that step counts as nobody's work."""
    steps = 16
    cached = host.call("EasyCache", model=shared(kind), reuse_threshold=threshold, **EASY)[0]
    model = cat(host, cached)
    passes, handle = counting_passes(model, kind)
    try:
        out = sample(model, kind, steps=steps, **HOW)
    finally:
        handle.remove()
    assert torch.isfinite(out).all()
    keep = int(0.3 * TOKENS)
    pruned = sum(tokens < TOKENS for tokens in passes)
    assert 0 < len(passes) < steps, "the cache answered some steps and not all"
    assert pruned > 0
    assert set(passes) == {TOKENS, keep}
    assert lines(caplog, logging.WARNING) == []
    (line,) = lines(caplog, logging.INFO)
    assert f"pruned {pruned} of {len(passes)} model calls" in line
    assert f"{steps - len(passes)} calls answered by another node" in line
    (record,) = records(host)
    assert record.calls == 2 * len(passes)
    assert record.spent.kept == 2 * sum(passes)
    unasked = [place for place in record.places if place.spent.calls == 0]
    assert len(unasked) == steps - len(passes)
    assert all("another node answered" in place.whole_because for place in unasked)


def test_steps_that_a_cache_answers_are_not_counted_where_pruning_is_off(
    host: InProcessHost, caplog: pytest.LogCaptureFixture
) -> None:
    model = shared("flux").clone()
    model.set_model_patch(lambda *args: args[0], "double_block")
    cached = host.call("EasyCache", model=model, reuse_threshold=0.5, **EASY)[0]
    patched = cat(host, cached)
    passes, handle = counting_passes(patched, "flux")
    try:
        sample(patched, "flux", steps=16, **HOW)
    finally:
        handle.remove()
    assert 0 < len(passes) < 16
    assert f"pruned 0 of {len(passes)} model calls" in lines(caplog, logging.INFO)[0]


def batching(model: Any, patch: pytest.MonkeyPatch, apart: Callable[[int], bool]) -> None:
    """Make the host run conditions together or apart, as `apart` says for each evaluation, counted from 0."""
    asked: list[float] = []

    def required(shape: Any, *args: Any, **kwargs: Any) -> float:
        return 1e30 if apart(len(asked) - 1) else 0.0

    def counted(executor: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(0.0)
        return executor(*args, **kwargs)

    import comfy.patcher_extension

    patch.setattr(model.model, "memory_required", required)
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "counting", counted)


@pytest.mark.parametrize("kind", ["sd3", "pixart_sigma", "flux", "auraflow"])
@pytest.mark.parametrize("images", [1, 2])
def test_how_the_host_batches_conditions_changes_nothing(host: InProcessHost, kind: str, images: int) -> None:
    """Together, apart, apart from the fifth evaluation on, together from there on, and in turns."""
    ways: dict[str, Callable[[int], bool]] = {
        "together": lambda number: False,
        "apart": lambda number: True,
        "apart later": lambda number: number >= WARMUP + 2,
        "together later": lambda number: number < WARMUP + 2,
        "in turns": lambda number: number % 2 == 1,
    }
    outs, held = {}, {}
    for name, apart in ways.items():
        model = cat(host, shared(kind))
        with pytest.MonkeyPatch.context() as patch:
            batching(model, patch, apart)
            outs[name], calls = watched(host, model, kind, cfg=2.0, batch=images)
        computed = [(call.sigma, len(call.uuids)) for call in calls.full()]
        assert sum(conditions for _, conditions in computed) == 2 * WARMUP, f"{name}: only the warm-up is full"
        assert sum(len(call.uuids) for call in calls) == 2 * STEPS
        assert {len(call.uuids) for call in calls} == {1 + (not apart(n)) for n in range(STEPS)}
        held[name] = max(call.kept_bytes for call in calls)
    assert len(set(held.values())) == 1
    assert held["together"] > 0
    for name, out in outs.items():
        assert relative_error(out, outs["together"]) < CLOSE, name


def test_conditions_of_unequal_length_and_a_third_that_joins_one_of_them(host: InProcessHost) -> None:
    """Texts of one length run together, the other apart; which ones does not matter to what is kept."""
    positive = [*prompt("sd3", 1, tokens=12), *prompt("sd3", 4, tokens=12)]
    negative = prompt("sd3", 2, tokens=7)
    outs = []
    for apart in (lambda number: False, lambda number: number % 2 == 1):
        model = cat(host, shared("sd3"))
        with pytest.MonkeyPatch.context() as patch:
            batching(model, patch, apart)
            out, calls = watched(host, model, "sd3", cfg=2.0, positive=positive, negative=negative)
        assert sum(len(call.uuids) for call in calls.full()) == 3 * WARMUP
        outs.append(out)
    assert relative_error(*outs) < CLOSE


def test_a_prompt_that_sets_in_later_is_alone_in_being_new(host: InProcessHost) -> None:
    """Where it runs apart from the others, they go on being pruned; what went out is not kept."""
    early = host.call("ConditioningSetTimestepRange", conditioning=prompt("sd3", 2), start=0.0, end=0.6)[0]
    late = host.call("ConditioningSetTimestepRange", conditioning=prompt("sd3", 4), start=0.6, end=1.0)[0]
    model = cat(host, shared("sd3"))
    with pytest.MonkeyPatch.context() as patch:
        batching(model, patch, lambda number: True)
        _, calls = watched(host, model, "sd3", negative=[*early, *late], steps=14)
    after = [call for call in calls if call.selected is None][2 * WARMUP :]
    assert len(after) == 1, "the late prompt once, and nothing else"
    one_call = calls[2 * WARMUP].kept_bytes
    assert calls[-1].kept_bytes <= one_call


FAULTS = {
    "choosing tokens": ("atedm_core.dit.expected_error", "ExpectedErrorSelector", "choose"),
    "observing": ("atedm_core.dit.expected_error", "ExpectedErrorSelector", "observe"),
    "moving keys": ("patches.dit.kv_cache", None, "drift_per_step"),
    "merging keys": ("patches.dit.kv_cache", "AttentionMemory", "merge"),
    "updating outputs": ("patches.dit.kv_cache", "CallMemory", "update"),
    "checking an attention": ("patches.dit.call", "TransformerCall", "_why_not"),
    "gathering": ("patches.dit.layout", None, "gather_tokens"),
    "recording": ("patches.dit.call", None, "own"),
    "counting": ("patches.dit.tally", "CATTally", "add"),
    "keeping": ("patches.dit.run", "CATRun", "_keep"),
    "beginning": ("patches.dit.run", "CATRun", "begin"),
}


@pytest.mark.parametrize(
    ("place", "kind"),
    [(place, "sd3") for place in FAULTS] + [("merging keys", kind) for kind in ("pixart_sigma", "flux")],
)
def test_an_error_of_its_own_costs_the_pruning_and_not_the_picture(
    host: InProcessHost, place: str, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module_name, owner, name = FAULTS[place]
    module = host.module(module_name)
    broken = module if owner is None else getattr(module, owner)

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise IndexError("a shape that nobody thought of")

    monkeypatch.setattr(broken, name, fails)
    out = sample(cat(host, shared(kind)), kind, **HOW)
    assert torch.equal(out, sample(shared(kind), kind, **HOW)), "no pruned call was made before the error"
    (warning,) = lines(caplog, logging.WARNING)
    assert "IndexError: a shape that nobody thought of" in warning
    assert len(lines(caplog, logging.INFO)) == 1
    assert kept_objects(host) == []


def test_after_an_error_of_its_own_the_pruned_steps_before_it_stand(
    host: InProcessHost, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = host.module("patches.dit.kv_cache").AttentionMemory
    merge, merged = memory.merge, []

    def fails_late(self: Any, *args: Any) -> None:
        merged.append(1)
        if len(merged) == 6:
            raise RuntimeError("a surprise")
        merge(self, *args)

    monkeypatch.setattr(memory, "merge", fails_late)
    out = sample(cat(host, shared("sd3")), "sd3", **HOW)
    assert torch.isfinite(out).all()
    assert "RuntimeError: a surprise" in lines(caplog, logging.WARNING)[0]
    assert "pruned 2 of 8 model calls" in lines(caplog, logging.INFO)[0]


class Stop(BaseException):
    """As the host's interrupt is."""


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, Stop])
@pytest.mark.parametrize("place", ["choosing tokens", "merging keys", "updating outputs", "keeping"])
def test_interrupts_and_lack_of_memory_go_through(
    host: InProcessHost, place: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    module_name, owner, name = FAULTS[place]

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise error("enough")

    monkeypatch.setattr(getattr(host.module(module_name), owner), name, fails)
    with pytest.raises(error, match="enough"):
        sample(cat(host, shared("sd3")), "sd3", **HOW)
    assert kept_objects(host) == []


@pytest.mark.parametrize("where", ["model", "attention"])
def test_errors_of_the_model_and_of_other_nodes_are_theirs(
    host: InProcessHost, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is not asked again, and nothing is put down to pruning."""
    model = cat(host, shared("sd3")).clone()
    asked: list[int] = []

    def fails(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        if len(asked) == 9:
            raise ValueError("not ours")
        return args[0](*args[1:], **kwargs) if where == "attention" else None

    handle = None
    if where == "attention":
        model.model_options["transformer_options"]["optimized_attention_override"] = fails
    else:
        handle = model.model.diffusion_model.joint_blocks[1].register_forward_pre_hook(fails)
    try:
        with pytest.raises(ValueError, match="not ours"):
            sample(model, "sd3", steps=12, **HOW)
    finally:
        if handle is not None:
            handle.remove()
    assert len(asked) == 9
    assert lines(caplog, logging.WARNING) == []
    assert re.search("interrupted", lines(caplog, logging.INFO)[0])
