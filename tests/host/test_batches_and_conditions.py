"""A picture depends on its own noise and prompt alone: not on its batch, nor on how ComfyUI groups the conditions.

Rounding differs with the batch size, so tokens whose scores lie closer together than rounding may be ranked the other
way around. Pictures are therefore compared for seeds where both runs kept the same tokens, and such seeds must occur.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessHost
from sample_tiny import cond_for, empty_latent
from watching import (
    Calls,
    apply,
    assert_pruned,
    in_halves,
    relative_error,
    sample,
    shared_model,
    watch,
    watched_sample,
)

CLOSE = 2e-5  # rounding alone is up to 5e-6 without pruning
CFG = 2.0  # guidance multiplies rounding, with pruning and without
SEEDS = (1, 2)


def choices(calls: Calls, image: int, images: int) -> list[Any]:
    """What was kept of one image of a batch, in every block and call; the image's rows are `images` apart."""
    rows = [event.subset for call in calls for event in call.events]
    return [(s.keep_index[image::images].tolist(), s.source_index[image::images].tolist()) for s in rows]


def one_of(batch: dict[str, Any], image: int) -> dict[str, Any]:
    """One image of a batch with the noise it has there."""
    return {**batch, "samples": batch["samples"][image : image + 1], "batch_index": [image]}


@pytest.mark.parametrize("images", [2, 4])
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_an_image_does_not_depend_on_its_batch_neighbours(host: InProcessHost, kind: str, images: int) -> None:
    model = apply(host, shared_model(kind))
    compared = 0
    for seed in SEEDS:
        batch = {**empty_latent(128, 128, images), "batch_index": list(range(images))}
        together, calls = watched_sample(model, kind, latent=batch, seed=seed, cfg=CFG)
        assert_pruned(calls, together)
        assert together.shape[0] == images
        for image in range(images):
            alone, alone_calls = watched_sample(model, kind, latent=one_of(batch, image), seed=seed, cfg=CFG)
            if choices(calls, image, images) == choices(alone_calls, 0, 1):
                assert relative_error(together[image : image + 1], alone) < CLOSE
                compared += 1
    assert compared >= images


def test_each_image_of_a_batch_keeps_its_own_tokens(host: InProcessHost) -> None:
    """Else the test above would pass with one set for all."""
    out, calls = watched_sample(apply(host, shared_model("sdxl")), batch=2)
    assert not torch.equal(out[0], out[1])
    assert any(not torch.equal(e.subset.keep_index[0], e.subset.keep_index[1]) for e in calls.events())


@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
@pytest.mark.parametrize("images", [1, 3])
def test_conditions_together_or_one_after_the_other(
    host: InProcessHost, kind: str, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI runs conditions one by one when memory is short; here it is told that memory always is."""
    model = apply(host, shared_model(kind))
    compared = 0
    for seed in SEEDS:
        together, joint = watched_sample(model, kind, seed=seed, batch=images, cfg=CFG)
        with monkeypatch.context() as patch:
            patch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e30)
            apart, split = watched_sample(model, kind, seed=seed, batch=images, cfg=CFG)
        assert len(split) == 2 * len(joint)
        assert_pruned(split, apart)
        if by_condition(joint, images) == by_condition(split, images):
            assert relative_error(apart, together) < CLOSE
            compared += 1
    assert compared


def by_condition(calls: Calls, images: int) -> dict[Any, list[list[int]]]:
    """What each condition kept, call after call, whether it was run alone or with others."""
    found: dict[Any, list[list[int]]] = {}
    order: list[Any] = []
    for event in calls.events():
        for position, uuid in enumerate(event.uuids):
            if uuid not in order:
                order.append(uuid)
            rows = slice(position * images, (position + 1) * images)
            kept = found.setdefault((uuid, event.block.name), [])
            kept.append(event.subset.keep_index[rows].tolist() + event.subset.source_index[rows].tolist())
    # a run gives its conditions names of its own: sort by what was kept
    return {name: sorted(v for (_, block), v in found.items() if block == name) for name in {b for _, b in found}}


def test_a_wrapper_that_splits_the_batch_gives_the_same_picture_and_count(host: InProcessHost) -> None:
    """Low-memory wrappers call the model once per condition with both conditions' names in the options."""
    model = apply(host, shared_model("sdxl"))
    together, joint = watched_sample(model)
    apart, split = watched_sample(in_halves(model))
    assert len(split) == 2 * len(joint)
    assert_pruned(split, apart)
    assert relative_error(apart, together) < 1e-3
    sums = []
    for calls in (joint, split):
        (report,) = calls.reports
        sums.append([sum(getattr(t, name) for t in report.tallies.values()) for name in ("tokens", "kept", "flops")])
    assert sums[0][0] > 0
    assert sums[0] == sums[1]


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_batches_are_pruned_and_repeatable(host: InProcessHost, images: int) -> None:
    model = apply(host, shared_model("sdxl"))
    out, calls = watched_sample(model, batch=images)
    assert_pruned(calls, out)
    assert out.shape == (images, 4, 16, 16)
    assert torch.equal(out, sample(model, batch=images))
    assert all(event.subset.keep_index.shape[0] == 2 * images for event in calls.events())


@pytest.mark.parametrize(("height", "width"), [(33, 25), (25, 33), (16, 40), (7, 9), (40, 8)])
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_non_square_and_odd_latents(host: InProcessHost, kind: str, height: int, width: int) -> None:
    model = shared_model(kind)
    latent = {"samples": torch.zeros(2, 4, height, width)}
    patched = apply(host, model, 0.6)
    out, calls = watched_sample(patched, kind, latent=latent)
    assert_pruned(calls, out, 0.6)
    assert out.shape == (2, 4, height, width)
    assert torch.equal(out, sample(patched, kind, latent=latent))
    assert not torch.equal(out, sample(model, kind, latent=latent))
    half = (-(-height // 2), -(-width // 2))
    quarter = (-(-half[0] // 2), -(-half[1] // 2))
    expected = (
        {half, quarter}
        if kind == "sdxl"
        else {(height, width), half, quarter, (-(-quarter[0] // 2), -(-quarter[1] // 2))}
    )
    assert {event.grid for event in calls.events()} == expected


def test_cfg_one_runs_the_positive_condition_alone(host: InProcessHost) -> None:
    patched = apply(host, shared_model("sdxl"))
    out, calls = watched_sample(patched, cfg=1.0)
    assert_pruned(calls, out)
    assert all(event.subset.keep_index.shape[0] == 1 and len(event.uuids) == 1 for event in calls.events())
    assert torch.equal(out, sample(patched, cfg=1.0))


def test_prompts_of_different_lengths(host: InProcessHost) -> None:
    """77 and 100 tokens cannot be batched, 77 and 154 are padded to one length by the host."""
    patched = apply(host, shared_model("sdxl"))
    negative = cond_for("sdxl", 2)
    short = sample(patched)
    for tokens, calls_a_step in ((154, 1), (100, 2)):
        positive = cond_for("sdxl", 1, tokens=tokens)
        out, calls = watched_sample(patched, positive=positive, negative=negative, steps=2)
        assert_pruned(calls, out)
        assert len(calls) in (2 * calls_a_step, 2)
        assert torch.equal(out, sample(patched, positive=positive, negative=negative, steps=2))
        assert not torch.equal(out, short)


def masked(host: InProcessHost) -> list[Any]:
    left = torch.zeros(1, 128, 128)
    left[:, :, :64] = 1.0
    parts = [
        host.call(
            "ConditioningSetMask", conditioning=cond_for("sdxl", seed), mask=mask, strength=1.0, set_cond_area="default"
        )[0]
        for seed, mask in ((1, left), (3, 1.0 - left))
    ]
    return parts[0] + parts[1]


def with_area(host: InProcessHost) -> list[Any]:
    (area,) = host.call(
        "ConditioningSetArea", conditioning=cond_for("sdxl", 3), width=64, height=96, x=0, y=0, strength=1.0
    )
    return cond_for("sdxl", 1) + area


@pytest.mark.parametrize(
    ("build", "grids"), [(masked, {(8, 8), (4, 4)}), (with_area, {(8, 8), (4, 4), (6, 4), (3, 2)})]
)
def test_masked_and_area_conditions(host: InProcessHost, build: Any, grids: set[tuple[int, int]]) -> None:
    model = shared_model("sdxl")
    positive = build(host)
    patched = apply(host, model, 0.5)
    out, calls = watched_sample(patched, positive=positive)
    assert_pruned(calls, out, 0.5)
    assert torch.equal(out, sample(patched, positive=positive))
    assert not torch.equal(out, sample(model, positive=positive))
    assert {event.grid for event in calls.events()} == grids
    (report,) = calls.reports
    assert len({uuid for uuid, _ in report.tallies}) == 3


def test_a_noise_mask_is_kept_to(host: InProcessHost) -> None:
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 64:] = 1.0
    out, calls = watched_sample(
        apply(host, shared_model("sdxl")), latent={"samples": start, "noise_mask": mask}, denoise=0.5
    )
    assert_pruned(calls, out)
    assert torch.allclose(out[..., :8], start[..., :8], atol=1e-4)
    assert not torch.allclose(out[..., 8:], start[..., 8:], atol=1e-1)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpmpp_2m_sde", "dpmpp_sde", "lcm", "uni_pc"])
@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_samplers_with_and_without_a_picture_to_start_from(host: InProcessHost, sampler: str, denoise: float) -> None:
    model = shared_model("sdxl")
    start = {"samples": torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(5))}
    how: dict[str, Any] = {"sampler": sampler, "denoise": denoise, "steps": 3, "latent": start}
    patched = apply(host, model)
    out, calls = watched_sample(patched, **how)
    assert_pruned(calls, out)
    assert out.shape == start["samples"].shape
    assert torch.equal(out, sample(patched, **how))
    assert not torch.equal(out, sample(model, **how))


def test_conditions_with_weight_hooks(host: InProcessHost) -> None:
    """A condition with a LoRA of its own: the host swaps weights inside a step and runs conditions apart."""
    import comfy.hooks

    model = shared_model("sdxl")
    name = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
    weight = model.model.state_dict()[name]
    hooks = comfy.hooks.create_hook_model_as_lora(
        {name: weight + 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(8))}, None, 1.0, 0.0
    )
    positive = comfy.hooks.set_hooks_for_conditioning(cond_for("sdxl", 1), hooks)
    plain = sample(model)
    patched = apply(host, model)
    without = sample(patched)
    out, calls = watched_sample(patched, positive=positive)
    assert_pruned(calls, out)
    assert not torch.equal(out, without)
    assert torch.equal(out, sample(patched, positive=positive))
    assert torch.equal(sample(model), plain)
    assert torch.equal(sample(patched), without)


def test_a_positive_used_twice(host: InProcessHost) -> None:
    """Guidance by perturbation runs the same condition again in a call of its own, under the same name."""
    (guided,) = host.call("PerturbedAttentionGuidance", model=apply(host, shared_model("sdxl")), scale=3.0)
    clone, calls = watch(guided)
    out = sample(clone)
    assert_pruned(calls, out)
    assert len(calls) == 4
    (report,) = calls.reports
    assert sorted({tally.calls for tally in report.tallies.values()}) == [2, 4]
