"""CAT Pruning beside other nodes: it prunes where it can, leaves alone what it cannot, and says so."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from cat_watching import SIZE, TOKENS, WARMUP, cat, kept_objects, watched
from in_process import InProcessHost
from sample_transformers import latent, prompt, sample, shared
from watching import relative_error, shared_model

from benchmarks.random_transformers import TRANSFORMERS

HOW = {"width": SIZE, "height": SIZE}
STEPS = 8


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == level and record.getMessage().startswith("CAT Pruning")
    ]


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize("kind", ["sdxl", "sd15", "svd"])
def test_other_models_are_refused_with_a_way_out(host: InProcessHost, kind: str) -> None:
    with pytest.raises(
        ValueError, match=r"^Take CAT Pruning Apply out.*AT-EDM Apply, for any model AT-EDM Auto.*SD3, PixArt"
    ):
        cat(host, shared_model(kind))


def test_one_line_says_what_was_done(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    sample(cat(host, shared("sd3")), "sd3", **HOW)
    (line,) = lines(caplog, logging.INFO)
    assert "pruned 5 of 8 model calls to 29.8% of 289 image tokens" in line
    assert "saved 4" in line, "five of eight steps at a third of the work"
    assert "GiB of keys and values" in line
    assert lines(caplog) == []


def test_too_few_steps_are_said_and_nothing_changes(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    model = shared("sd3")
    out = sample(cat(host, model, least_full_steps=4), "sd3", steps=4, **HOW)
    assert torch.equal(out, sample(model, "sd3", steps=4, **HOW))
    (line,) = lines(caplog)
    assert "nothing will be pruned: all 4 steps of this run are full" in line


def test_keeping_everything_is_said(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    sample(cat(host, shared("sd3"), keep_ratio=1.0), "sd3", steps=2, **HOW)
    assert lines(caplog) == [], "it was meant"
    (line,) = lines(caplog, logging.INFO)
    assert "keep_ratio 1 keeps all 289 tokens" in line


def test_memory_that_does_not_suffice_is_said_and_nothing_changes(
    host: InProcessHost, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    model = shared("sd3")
    patched = cat(host, model)
    # The host splits conditions where memory is short, so each call has one.
    needed = 2 * 2 * (TOKENS + 12) * 128 * 4
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *args, **kwargs: needed - 1)
    plain = sample(model, "sd3", **HOW)
    out, calls = watched(host, patched, "sd3")
    assert torch.equal(out, plain)
    (line,) = lines(caplog)
    assert "keys and values take" in line
    assert all(call.kept_bytes == 0 for call in calls)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *args, **kwargs: needed)
    _, calls = watched(host, patched, "sd3")
    assert calls.pruned()


def block_patch(host: InProcessHost, model: Any) -> Any:
    """A block of the transformer, replaced by another node, which looks at every token."""

    def replaced(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        assert args["img"].shape[1] == TOKENS
        out = extra["original_block"](args)
        return {**out, "img": out["img"] + torch.linspace(0, 1, TOKENS).view(1, -1, 1)}

    clone = model.clone()
    clone.set_model_patch_replace(replaced, "dit", "double_block", 1)
    return clone


def listed_patch(host: InProcessHost, model: Any) -> Any:
    clone = model.clone()
    clone.set_model_patch(lambda *args: args[0], "double_block")
    return clone


def compiled(host: InProcessHost, model: Any) -> Any:
    """What TorchCompileModel leaves on a model, without the compiler."""
    import comfy.patcher_extension

    clone = model.clone()
    clone.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.APPLY_MODEL,
        "torch.compile",
        lambda executor, *args, **kwargs: executor(*args, **kwargs),
    )
    return clone


def several_devices(host: InProcessHost, model: Any) -> Any:
    clone = model.clone()
    clone.model_options["transformer_options"]["multigpu_thread_device"] = torch.device("cpu")
    return clone


LEFT_ALONE = {
    "test_cat_beside_others changes the model's blocks": block_patch,
    "changes the model's blocks": listed_patch,
    "torch.compile": compiled,
    "several GPUs": several_devices,
}


@pytest.mark.parametrize("said", LEFT_ALONE)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_what_counts_on_all_tokens_is_left_alone(
    host: InProcessHost, said: str, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    put_on = LEFT_ALONE[said]
    plain = sample(put_on(host, shared("sd3")), "sd3", **HOW)
    patched = cat(host, put_on(host, shared("sd3"))) if first else put_on(host, cat(host, shared("sd3")))
    out, calls = watched(host, patched, "sd3")
    assert torch.equal(out, plain)
    assert calls == []
    (line,) = lines(caplog, logging.INFO)
    assert said in line
    assert "pruned 0 of 8" in line


def test_the_hosts_names_for_compiled_models_and_several_devices(host: InProcessHost) -> None:
    """What the stand-ins above put on a model is what the host does."""
    import inspect

    import comfy.samplers
    from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

    assert host.module("patches.dit.bypass")._COMPILE_KEY == COMPILE_KEY
    assert '"multigpu_thread_device"' in inspect.getsource(comfy.samplers)


@pytest.mark.parametrize("kind", ["flux", "qwen_image"])
def test_reference_images_are_left_alone(host: InProcessHost, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    reference = {"samples": torch.randn(latent(kind, SIZE, SIZE)["samples"].shape)}
    positive, negative = (
        host.call("ReferenceLatent", conditioning=prompt(kind, seed), latent=reference)[0] for seed in (1, 2)
    )
    how = {"positive": positive, "negative": negative}
    out, calls = watched(host, cat(host, shared(kind)), kind, **how)
    assert torch.equal(out, sample(shared(kind), kind, **how, **HOW))
    assert calls == []
    assert "reference images are in the prompt" in lines(caplog, logging.INFO)[0]


def test_a_second_call_at_the_same_input_is_the_other_nodes_own(host: InProcessHost) -> None:
    """A wrapper that calls the model twice: the second call runs in full and changes nothing of what is kept."""
    model = cat(host, shared("sd3")).clone()
    twice: list[float] = []

    def calls_twice(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
        first = apply_model(given["input"], given["timestep"], **given["c"])
        second = apply_model(given["input"], given["timestep"], **given["c"])
        twice.append(float((first - second).abs().max()))
        return first

    model.set_model_unet_function_wrapper(calls_twice)
    out, calls = watched(host, model, "sd3")
    expected, _ = watched(host, cat(host, shared("sd3")), "sd3")
    assert torch.equal(out, expected)
    assert len(calls) == STEPS
    assert [gap == 0.0 for gap in twice] == [True] * WARMUP + [False] * (STEPS - WARMUP)


def test_another_attention_of_pixart_is_left_alone(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    model = TRANSFORMERS["pixart_sigma"].build()
    unpatched = model.clone()
    original = model.get_model_object("diffusion_model.blocks.1.attn.forward")
    model.add_object_patch("diffusion_model.blocks.1.attn.forward", lambda *args, **kw: original(*args, **kw) * 0.5)
    plain = sample(model, "pixart_sigma", **HOW)
    out, calls = watched(host, cat(host, model), "pixart_sigma")
    assert torch.equal(out, plain)
    assert calls == []
    assert "another node replaces its self-attention" in lines(caplog, logging.INFO)[0]
    _, again = watched(host, cat(host, unpatched), "pixart_sigma")
    assert again.pruned(), "the patch is gone, and what the host leaves behind is its own"


def test_conditions_for_a_part_of_the_picture_run_in_full(
    host: InProcessHost, caplog: pytest.LogCaptureFixture
) -> None:
    area = host.call(
        "ConditioningSetArea", conditioning=prompt("sd3", 4), width=128, height=SIZE, x=0, y=0, strength=1.0
    )
    positive = [*prompt("sd3", 1), *area[0]]
    _, calls = watched(host, cat(host, shared("sd3")), "sd3", positive=positive)
    assert calls.pruned()
    assert all(len(call.uuids) <= 2 for call in calls)
    assert "a part of the picture only" in lines(caplog, logging.INFO)[0]


def test_two_positive_prompts_share_a_set(host: InProcessHost) -> None:
    positive = [*prompt("sd3", 1), *prompt("sd3", 4)]
    _, calls = watched(host, cat(host, shared("sd3")), "sd3", positive=positive)
    assert all(call.selected.unique(dim=0).shape[0] == 1 for call in calls.pruned())
    assert len(calls.pruned()) >= STEPS - WARMUP


def test_a_prompt_that_sets_in_later_is_computed_in_full_first(host: InProcessHost) -> None:
    early = host.call("ConditioningSetTimestepRange", conditioning=prompt("sd3", 1), start=0.0, end=0.6)[0]
    late = host.call("ConditioningSetTimestepRange", conditioning=prompt("sd3", 4), start=0.6, end=1.0)[0]
    _, calls = watched(host, cat(host, shared("sd3")), "sd3", positive=[*early, *late], steps=14)
    first = {call.uuids for call in calls[:WARMUP]}
    changed = next(place for place, call in enumerate(calls) if call.uuids not in first)
    assert calls[changed - 1].selected is not None
    assert calls[changed].selected is None
    assert calls[-1].selected is not None


def test_scheduled_weights_are_left_alone(host: InProcessHost, caplog: pytest.LogCaptureFixture) -> None:
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora({}, strength_model=1.0, strength_clip=0.0)
    positive = [[one[0], {**one[1], "hooks": hooks}] for one in prompt("sd3", 1)]
    model = shared("sd3")
    out, calls = watched(host, cat(host, model), "sd3", positive=positive)
    assert torch.equal(out, sample(model, "sd3", positive=positive, **HOW))
    assert calls == []
    assert "change the model's weights" in lines(caplog)[0]


def test_an_attention_of_another_node_gets_the_merged_keys(host: InProcessHost) -> None:
    seen: list[tuple[int, int]] = []

    def other(func: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((q.shape[1], k.shape[1]))
        return func(q, k, v, *args, **kwargs)

    model = shared("sd3").clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = other
    out, _ = watched(host, cat(host, model), "sd3")
    assert torch.equal(out, watched(host, cat(host, shared("sd3")), "sd3")[0])
    pruned = int(0.3 * TOKENS) + 12
    assert set(seen) == {(TOKENS + 12, TOKENS + 12), (pruned, TOKENS + 12)}


def test_skip_layer_guidance_runs_its_own_calls_in_full(host: InProcessHost) -> None:
    model = shared("sd3")
    guided = host.call("SkipLayerGuidanceSD3", model=model, layers="1", scale=3.0, start_percent=0.0, end_percent=1.0)[
        0
    ]
    _, calls = watched(host, cat(host, guided), "sd3")
    assert len(calls.pruned()) == STEPS - WARMUP
    later = host.call(
        "SkipLayerGuidanceSD3", model=cat(host, model), layers="1", scale=3.0, start_percent=0.0, end_percent=0.01
    )[0]
    unguided, _ = watched(host, cat(host, model), "sd3")
    assert relative_error(watched(host, later, "sd3")[0], unguided) < 1.0


def test_lazy_cache_and_pruning_share_a_run(host: InProcessHost) -> None:
    for order in (True, False):
        model = shared("sd3")
        cached = {"reuse_threshold": 0.3, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
        if order:
            model = cat(host, host.call("LazyCache", model=model, **cached)[0])
        else:
            model = host.call("LazyCache", model=cat(host, model), **cached)[0]
        _, calls = watched(host, model, "sd3", steps=14)
        assert calls.pruned()
        assert len(calls) < 14, "the cache left some steps out"


def test_tokens_that_an_inpainting_mask_releases_are_computed_at_once(host: InProcessHost) -> None:
    """The mask opens from the right; taking turns alone, the sets would start at the top left."""
    side = SIZE // 8
    model = cat(host, shared("sd3"), hot_share=0.0, keep_ratio=0.2).clone()
    open_columns: list[int] = []

    def opens(sigma: Any, mask: Any, extra_options: Any) -> Any:
        open_columns.append(2 * (len(open_columns) + 1))
        return (torch.arange(side) >= side - open_columns[-1]).to(mask).expand_as(mask)

    model.set_model_denoise_mask_function(opens)
    given = {**latent("sd3", SIZE, SIZE), "noise_mask": torch.ones(1, side, side)}
    _, calls = watched(host, model, "sd3", latent=given, steps=12)
    assert len(calls.pruned()) == 12 - WARMUP
    for call, columns in zip(calls, open_columns, strict=True):
        if call.selected is not None:
            released = {row * 17 + 17 - columns // 2 for row in range(17)}
            assert released <= set(call.selected[0].tolist())


def test_more_tokens_released_than_a_set_holds_is_a_full_step(host: InProcessHost) -> None:
    model = cat(host, shared("sd3"), keep_ratio=0.1).clone()
    half = torch.zeros(1, 1, SIZE // 8, SIZE // 8)
    half[..., : SIZE // 16] = 1.0
    asked: list[int] = []

    def opens_at_the_sixth(sigma: Any, mask: Any, extra_options: Any) -> Any:
        asked.append(1)
        return torch.ones_like(mask) if len(asked) > 5 else half.to(mask)

    model.set_model_denoise_mask_function(opens_at_the_sixth)
    given = {**latent("sd3", SIZE, SIZE), "noise_mask": torch.ones(1, SIZE // 8, SIZE // 8)}
    _, calls = watched(host, model, "sd3", latent=given)
    assert [call.selected is None for call in calls] == [True] * 3 + [False] * 2 + [True] + [False] * 2


def test_a_run_that_fails_leaves_nothing(host: InProcessHost) -> None:
    model = cat(host, shared("sd3"))
    asked: list[int] = []

    def fails(args: Any) -> Any:
        asked.append(1)
        if len(asked) == 6:
            raise RuntimeError("out of order")
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(fails)
    with pytest.raises(RuntimeError, match="out of order"):
        sample(model, "sd3", **HOW)
    assert kept_objects(host) == []
