"""Calls of the model that are not what a sampler makes: other packs call it in ways of their own."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from sample_tiny import cond_for
from watching import apply, assert_pruned, relative_error, sample, shared_model, transformers, watch, watched_sample

from benchmarks import random_models as tiny_models


@pytest.fixture(scope="module")
def even_sdxl() -> Any:
    """SDXL with two layers in every block, for contexts given layer by layer."""
    return tiny_models.KINDS["sdxl"].build(depth=(2, 2))


def inside_a_run(host: InProcessHost, model: Any, **changes: Any) -> dict[str, Any]:
    """Options as they are in the middle of a sampling run."""
    from comfy.ldm.modules.attention import SpatialTransformer

    run = host.module("patches.unet.run")
    unet = host.module("patches.unet.structure")
    schedule = host.module("atedm_core.unet.schedule").DSAPSchedule(early_percent=0.3, early_blocks="all")
    settings = host.module("atedm_core.unet.ranking").PruneSettings()
    method = run.Method(schedule, settings, unet.describe_unet(unet.supported_unet(model)))
    handler = host.module("patches.unet.attention_block").attention_block_handler
    options = {
        run.RUN_KEY: run.PruneRun(method, lambda percent: 1.0 - percent),
        "patches": {"forward_timestep_embed_patch": [(SpatialTransformer, handler)]},
        "sigmas": torch.tensor([0.5]),
        "uuids": ["one", "two"],
        "cond_or_uncond": [1, 0],
        **changes,
    }
    return {key: value for key, value in options.items() if value is not None}


def totals(options: dict[str, Any]) -> Any:
    return options["atedm_run"].total()


def call(model: Any, options: dict[str, Any], context: Any = None, samples: int = 2) -> torch.Tensor:
    """The U-Net itself, with no sampler around it."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 4, 16, 16, generator=generator)
    y = torch.randn(samples, 2816, generator=generator)
    if context is None:
        context = text(samples)
    times = torch.full((samples,), 500.0)
    with torch.inference_mode():
        out: torch.Tensor = model.model.diffusion_model(x, times, context, y, transformer_options=options)
    return out


def text(samples: int = 2, seed: int = 4) -> torch.Tensor:
    return torch.randn(samples, 77, tiny_models.NARROW_TEXT, generator=torch.Generator().manual_seed(seed))


def test_a_call_outside_any_run_is_the_plain_models(host: InProcessHost, even_sdxl: Any) -> None:
    """Training, previews and nodes that evaluate the model once have no run around them."""
    patched = apply(host, even_sdxl)
    options = patched.model_options["transformer_options"]
    assert options["patches"]["forward_timestep_embed_patch"]
    plain = call(even_sdxl, {})
    assert torch.equal(call(even_sdxl, {"patches": options["patches"]}), plain)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    given = {"c_crossattn": text(1), "y": torch.randn(1, 2816, generator=torch.Generator().manual_seed(2))}
    with torch.inference_mode():
        expected = even_sdxl.model.apply_model(noise, torch.tensor([5.0]), **given)
        found = even_sdxl.model.apply_model(noise, torch.tensor([5.0]), **given, transformer_options=dict(options))
    assert torch.equal(found, expected)


def test_inside_a_run_the_same_call_is_pruned(host: InProcessHost, even_sdxl: Any) -> None:
    options = inside_a_run(host, even_sdxl)
    assert not torch.equal(call(even_sdxl, options), call(even_sdxl, {}))
    assert totals(options).pruned_calls == totals(options).calls == 22


def test_context_as_a_list_with_one_entry_per_layer(host: InProcessHost, even_sdxl: Any) -> None:
    single = call(even_sdxl, inside_a_run(host, even_sdxl))
    assert torch.equal(call(even_sdxl, inside_a_run(host, even_sdxl), [text(), text()]), single)
    for late in (False, True):
        different = [text(seed=5), text()] if late else [text(), text(seed=5)]
        options = inside_a_run(host, even_sdxl)
        out = call(even_sdxl, options, different)
        assert totals(options).pruned_calls
        assert not torch.equal(out, single)
        spared = inside_a_run(host, even_sdxl, sigmas=torch.tensor([0.9]))
        assert torch.equal(call(even_sdxl, spared, different), call(even_sdxl, {}, different))


@pytest.mark.parametrize("missing", ["uuids", "cond_or_uncond", "transformer_index", "original_shape"])
def test_options_that_lack_what_pruning_can_do_without(host: InProcessHost, even_sdxl: Any, missing: str) -> None:
    options = inside_a_run(host, even_sdxl)
    expected = call(even_sdxl, inside_a_run(host, even_sdxl))
    options.pop(missing, None)
    assert torch.equal(call(even_sdxl, options), expected)
    assert totals(options).pruned_calls


def test_without_a_noise_level_nothing_is_pruned(host: InProcessHost, even_sdxl: Any) -> None:
    options = inside_a_run(host, even_sdxl, sigmas=None)
    assert "sigmas" not in options
    assert torch.equal(call(even_sdxl, options), call(even_sdxl, {}))


@pytest.mark.parametrize("shape", [(), (1,), (2,), (6,)])
def test_noise_levels_of_any_shape(host: InProcessHost, even_sdxl: Any, shape: tuple[int, ...]) -> None:
    expected = call(even_sdxl, inside_a_run(host, even_sdxl))
    options = inside_a_run(host, even_sdxl, sigmas=torch.full(shape, 0.5))
    assert torch.equal(call(even_sdxl, options), expected)


def test_options_kept_for_the_next_noise_level(host: InProcessHost, even_sdxl: Any) -> None:
    """A wrapper may hand over the same dictionary again and only set the noise level."""
    options = inside_a_run(host, even_sdxl, sigmas=torch.tensor([0.9]))
    plain = call(even_sdxl, {})
    assert torch.equal(call(even_sdxl, options), plain)
    options["sigmas"] = torch.tensor([0.5])
    assert not torch.equal(call(even_sdxl, options), plain)


def test_conditions_named_twice_are_both_counted(host: InProcessHost, even_sdxl: Any) -> None:
    once, twice = inside_a_run(host, even_sdxl), inside_a_run(host, even_sdxl, uuids=["one", "one"])
    assert torch.equal(call(even_sdxl, once), call(even_sdxl, twice))
    for name in ("tokens", "kept", "flops", "flops_full"):
        assert getattr(totals(once), name) == getattr(totals(twice), name) > 0


def test_options_can_be_copied_deeply_while_a_run_lasts(host: InProcessHost, even_sdxl: Any) -> None:
    """Guidance nodes do that before they patch a call of their own; what is spent there belongs to the same run."""
    options = inside_a_run(host, even_sdxl)
    copied = copy.deepcopy(options)
    out = call(even_sdxl, copied)
    assert totals(options).pruned_calls == 22
    assert torch.equal(out, call(even_sdxl, options))


def test_a_second_unet_of_another_shape_called_with_the_same_options_is_left_alone(
    host: InProcessHost, even_sdxl: Any
) -> None:
    """Inpainting and reference packs run a U-Net of their own inside the first one's call, options and all."""
    other = tiny_models.KINDS["sdxl"].build(depth=(3, 1))
    assert transformers(other).keys() == transformers(even_sdxl).keys()
    options = inside_a_run(host, even_sdxl)
    assert torch.equal(call(other, options), call(other, {}))
    assert totals(options).tokens == 0


def test_video_blocks_are_handed_to_the_host(host: InProcessHost) -> None:
    handler = host.module("patches.unet.attention_block").attention_block_handler
    model = shared_model("svd")
    block = transformers(model)["input", 1]
    x = torch.randn(3, block.in_channels, 8, 8, generator=torch.Generator().manual_seed(3))
    context = torch.randn(3, 1, 1024, generator=torch.Generator().manual_seed(4))
    options = inside_a_run(host, shared_model("sdxl"), block=("input", 1))
    with torch.inference_mode():
        video = (torch.randn(3, 1, 1024, generator=torch.Generator().manual_seed(5)), 3, torch.zeros(1, 3))
        expected = block(x, context, *video, {})
        found = handler(block, x, None, context, options, None, *video)
    assert torch.equal(found, expected)


def test_the_host_counts_blocks_as_before(host: InProcessHost, even_sdxl: Any) -> None:
    """IP-Adapter finds its weights by that number."""
    seen: list[list[Any]] = []
    for options in ({"patches": {}}, inside_a_run(host, even_sdxl)):
        numbers: list[Any] = []

        def note(x: Any, extra: dict[str, Any], numbers: list[Any] = numbers) -> Any:
            numbers.append(
                (extra["block"], extra["block_index"], extra["transformer_index"], extra["activations_shape"])
            )
            return x

        options["patches"]["middle_patch"] = [note]
        call(even_sdxl, options)
        seen.append(numbers)
    assert len(seen[0]) == 22
    assert seen[0] == seen[1]


def test_threads_that_share_a_run_do_not_disturb_each_other(host: InProcessHost, even_sdxl: Any) -> None:
    """With several GPUs the host runs conditions at the same time, one thread per device, in one run."""
    options = inside_a_run(host, even_sdxl)
    expected = call(even_sdxl, inside_a_run(host, even_sdxl))
    results: list[torch.Tensor] = []

    def work(name: str) -> None:
        for _ in range(3):
            results.append(call(even_sdxl, {**options, "uuids": [name, f"{name}'"]}))

    threads = [threading.Thread(target=work, args=(f"thread {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12
    assert all(torch.equal(result, expected) for result in results)
    assert totals(options).calls == 12 * 22
    assert {tally.calls for tally in options["atedm_run"].tallies.values()} == {3}


def test_conditions_split_over_devices(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's own scheduler for several devices, with two names for the one there is."""
    import comfy.model_management
    import comfy.multigpu
    import comfy.patcher_extension

    model = apply(host, shared_model("sdxl"))
    one, calls = watched_sample(model, cfg=2.0)
    devices = [torch.device("cpu"), torch.device("cpu:0")]
    pool = comfy.multigpu.MultiGPUThreadPool(devices)
    monkeypatch.setattr(comfy.model_management, "set_torch_device", lambda device: None)

    def split(executor: Any, *args: Any) -> Any:
        *given, options = args
        clones = dict.fromkeys(devices, executor_patcher())
        return executor(*given, {**options, "multigpu_clones": clones, "multigpu_thread_pool": pool})

    clone, threaded = watch(model)
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "split", split)

    def executor_patcher() -> Any:
        return clone

    try:
        out = sample(clone, cfg=2.0)
    finally:
        pool.shutdown()
    assert len(threaded) == 2 * len(calls)
    assert relative_error(out, one) < 1e-5
    (report,), (reference,) = threaded.reports, calls.reports
    assert len(report.tallies) == len(reference.tallies)
    assert {t.calls for t in report.tallies.values()} == {len(calls)}


def test_a_sampler_that_takes_no_step_says_nothing_of_other_nodes(
    host: InProcessHost, caplog: pytest.LogCaptureFixture
) -> None:
    """SplitSigmas at the first step leaves one noise level: the host runs the sampler, and it never calls the model."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(apply(host, shared_model("sdxl")))
    guider.set_conds(cond_for("sdxl", 1), cond_for("sdxl", 2))
    caplog.set_level("INFO")
    latent = torch.zeros(1, 4, 16, 16)
    with torch.inference_mode():
        guider.sample(latent, latent, comfy.samplers.sampler_object("euler"), torch.tensor([14.0]))
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert not [line for line in warnings if "AT-EDM" in line]


def test_guiders_of_other_nodes(host: InProcessHost) -> None:
    """DualCFGGuider runs three conditions a step, BasicGuider one."""
    model, calls = watch(apply(host, shared_model("sdxl")))
    conditions = {"cond1": cond_for("sdxl", 1), "cond2": cond_for("sdxl", 3), "negative": cond_for("sdxl", 2)}
    (dual,) = host.call(
        "DualCFGGuider", model=model, **conditions, cfg_conds=3.0, cfg_cond2_negative=2.0, style="regular"
    )
    (basic,) = host.call("BasicGuider", model=model, conditioning=cond_for("sdxl", 1))
    (sampler,) = host.call("KSamplerSelect", sampler_name="euler")
    (sigmas,) = host.call("BasicScheduler", model=model, scheduler="normal", steps=2, denoise=1.0)
    (noise,) = host.call("RandomNoise", noise_seed=1)
    for guider, conditions_a_step in ((dual, 3), (basic, 1)):
        calls.clear()
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        given = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
        out, _ = host.call("SamplerCustomAdvanced", **given)
        assert_pruned(calls, out["samples"])
        uuids = {uuid for event in calls.events() for uuid in event.uuids}
        assert len(uuids) == conditions_a_step
