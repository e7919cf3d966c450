"""CAT Pruning through the sampler: what is pruned when, for whom, and that nothing else changes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from cat_watching import SIZE, TOKENS, WARMUP, cat, kept_objects, watched
from in_process import InProcessHost
from sample_transformers import latent, prompt, sample, shared
from watching import relative_error

from benchmarks.random_transformers import TRANSFORMERS

KINDS = ("sd3", "pixart_sigma")
EVERY = list(TRANSFORMERS)
KEEP = int(0.3 * TOKENS)
STEPS = 8
HOW = {"width": SIZE, "height": SIZE}
CLOSE = 1e-5


@pytest.mark.parametrize("kind", EVERY)
def test_keeping_all_tokens_is_bit_identical(host: InProcessHost, kind: str) -> None:
    model = shared(kind)
    out, calls = watched(host, cat(host, model, keep_ratio=1.0), kind, steps=4)
    assert torch.equal(out, sample(model, kind, steps=4, **HOW))
    assert calls == []


@pytest.mark.parametrize("kind", EVERY)
def test_steps_after_the_warm_up_run_on_a_share_of_the_tokens(host: InProcessHost, kind: str) -> None:
    model = shared(kind)
    out, calls = watched(host, cat(host, model), kind)
    assert [call.selected is None for call in calls] == [True] * WARMUP + [False] * (STEPS - WARMUP)
    # Flux.2 takes every latent pixel for a token, the others four.
    keep = int(0.3 * (SIZE // 8) ** 2) if kind == "flux2" else KEEP
    assert {call.selected.shape for call in calls.pruned()} == {(2, keep)}
    assert all(torch.equal(*call.selected) for call in calls.pruned()), "both conditions have the image's set"
    assert not torch.equal(out, sample(model, kind, **HOW))


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_steps_are_bit_identical(host: InProcessHost, kind: str) -> None:
    pictures: list[list[torch.Tensor]] = []
    for one in (shared(kind), cat(host, shared(kind))):
        clone, seen = one.clone(), []
        clone.set_model_sampler_post_cfg_function(
            lambda args, seen=seen: seen.append(args["denoised"].clone()) or args["denoised"]
        )
        sample(clone, kind, **HOW)
        pictures.append(seen)
    same = [torch.equal(a, b) for a, b in zip(*pictures, strict=True)]
    assert same == [True] * WARMUP + [False] * (STEPS - WARMUP)


def test_the_sets_change_and_visit_every_token(host: InProcessHost) -> None:
    _, calls = watched(host, cat(host, shared("sd3")), "sd3", steps=12)
    sets = [call.selected[0] for call in calls.pruned()]
    assert torch.cat(sets).unique().numel() == TOKENS
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(sets))


def test_refreshes_and_last_steps_are_full(host: InProcessHost) -> None:
    model = cat(host, shared("sd3"), refresh_interval=3, last_full_steps=1)
    _, calls = watched(host, model, "sd3", steps=12)
    full = [step for step, call in enumerate(calls) if call.selected is None]
    assert full == [0, 1, 2, 4, 7, 10, 11], "counted back from the last but one, which leaves hardly any noise"


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_has_its_own_set_and_does_not_depend_on_its_neighbours(host: InProcessHost, kind: str) -> None:
    model = cat(host, shared(kind))
    batch = {**latent(kind, SIZE, SIZE, 3), "batch_index": [0, 1, 2]}
    together, calls = watched(host, model, kind, latent=batch, cfg=2.0)
    sets = [call.selected for call in calls.pruned()]
    assert all(one.shape == (6, KEEP) for one in sets)
    assert any(not torch.equal(one[0], one[1]) for one in sets)
    for image in range(3):
        single = {"samples": batch["samples"][:1], "batch_index": [image]}
        alone, alone_calls = watched(host, model, kind, latent=single, cfg=2.0)
        assert all(torch.equal(a[image], b.selected[0]) for a, b in zip(sets, alone_calls.pruned(), strict=True))
        assert relative_error(together[image : image + 1], alone) < CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_together_or_one_after_the_other(
    host: InProcessHost, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cat(host, shared(kind))
    together, joint = watched(host, model, kind, cfg=2.0)
    with monkeypatch.context() as patch:
        patch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e30)
        apart, split = watched(host, model, kind, cfg=2.0)
    assert len(split) == 2 * len(joint)
    assert len(split.pruned()) == 2 * (STEPS - WARMUP)
    assert relative_error(apart, together) < CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_of_unequal_length(host: InProcessHost, kind: str) -> None:
    """Two calls an evaluation, the positive one first, on the same set. Samples: test_cat_against_reference."""
    model = cat(host, shared(kind))
    positive, negative = prompt(kind, 1, tokens=12), prompt(kind, 2, tokens=7)
    out, calls = watched(host, model, kind, positive=positive, negative=negative)
    assert len(calls.pruned()) == 2 * (STEPS - WARMUP)
    for first, second in zip(calls.pruned()[::2], calls.pruned()[1::2], strict=True):
        assert first.uuids != second.uuids
        assert torch.equal(first.selected, second.selected)
    assert relative_error(out, sample(shared(kind), kind, positive=positive, negative=negative, **HOW)) < 1.0


def test_without_guidance(host: InProcessHost) -> None:
    _, calls = watched(host, cat(host, shared("sd3")), "sd3", cfg=1.0)
    assert all(call.selected.shape == (1, KEEP) for call in calls.pruned())
    assert len(calls.pruned()) == STEPS - WARMUP


SAMPLERS = (
    ("euler", 1),
    ("heun", 2),
    ("dpm_2", 2),
    ("dpmpp_2m", 1),
    ("dpmpp_2s_ancestral", 2),
    ("dpmpp_sde", 2),
    ("sa_solver_pece", 2),
    ("uni_pc", 1),
    ("lcm", 1),
    ("dpm_adaptive", None),
)


@pytest.mark.parametrize(("sampler", "calls_a_step"), SAMPLERS, ids=[name for name, _ in SAMPLERS])
def test_warm_up_follows_the_noise_level_not_the_calls(
    host: InProcessHost, sampler: str, calls_a_step: int | None
) -> None:
    _, calls = watched(host, cat(host, shared("sd3")), "sd3", sampler=sampler)
    sigmas = calls.sigmas
    for call in calls.pruned():
        assert call.sigma <= sigmas[WARMUP] * 1.0002
    late = [call for call in calls if call.sigma < sigmas[WARMUP] * 0.999]
    assert len([call for call in late if call.selected is None]) <= 1, "at most one is needed to record"
    assert len(late) > 1
    if calls_a_step:
        assert len(calls) >= calls_a_step * (STEPS - 1)


def test_a_noise_level_asked_for_twice_is_one_step(host: InProcessHost) -> None:
    _, calls = watched(host, cat(host, shared("sd3")), "sd3", sampler="heun")
    for one, other in itertools.pairwise(calls.pruned()):
        assert torch.equal(one.selected, other.selected) == (one.sigma == other.sigma)


def test_part_of_a_schedule_warms_up_for_itself(host: InProcessHost) -> None:
    start = torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(3))
    given = {"latent": {"samples": start}, "denoise": 0.6}
    _, calls = watched(host, cat(host, shared("sd3")), "sd3", **given)
    assert [call.selected is None for call in calls] == [True] * WARMUP + [False] * (STEPS - WARMUP)


@pytest.mark.parametrize("size", [(280, 264), (280, 408), (264, 528)])
def test_odd_and_oblong_sizes(host: InProcessHost, size: tuple[int, int]) -> None:
    """Latents of 35 x 33 pixels and the like: the last patch of a row is half outside."""
    width, height = size
    _, calls = watched(host, cat(host, shared("sd3")), "sd3", width=width, height=height)
    tokens = -(-width // 16) * -(-height // 16)
    assert {call.selected.shape[1] for call in calls.pruned()} == {int(0.3 * tokens)}


def test_the_same_run_twice_and_the_plain_model_between(host: InProcessHost) -> None:
    model = shared("sd3")
    plain = sample(model, "sd3", **HOW)
    patched = cat(host, model)
    first, _ = watched(host, patched, "sd3")
    assert torch.equal(sample(model, "sd3", **HOW), plain)
    watched(host, patched, "sd3", width=SIZE + 32, seed=9)
    again, _ = watched(host, patched, "sd3")
    assert torch.equal(again, first)


def test_applied_twice_the_last_one_counts(host: InProcessHost) -> None:
    model = shared("sd3")
    twice, calls = watched(host, cat(host, cat(host, model, keep_ratio=0.7), keep_ratio=0.2), "sd3")
    once, _ = watched(host, cat(host, model, keep_ratio=0.2), "sd3")
    assert torch.equal(twice, once)
    assert {call.selected.shape[1] for call in calls.pruned()} == {int(0.2 * TOKENS)}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_kept_after_a_run(host: InProcessHost, kind: str) -> None:
    patched = cat(host, shared(kind))
    options = repr(sorted(patched.model_options["transformer_options"]))
    _, calls = watched(host, patched, kind)
    assert calls[-1].kept_bytes > 0
    assert kept_objects(host) == []
    assert repr(sorted(patched.model_options["transformer_options"])) == options


@pytest.mark.parametrize("stop_at", [WARMUP, STEPS - 1])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_kept_after_an_interrupted_run(host: InProcessHost, kind: str, stop_at: int) -> None:
    import comfy.model_management

    patched = cat(host, shared(kind))
    seen: list[int] = []

    def stop(module: Any, args: Any) -> None:
        seen.append(1)
        if len(seen) == stop_at:
            raise comfy.model_management.InterruptProcessingException

    last = patched.model.diffusion_model.final_layer
    handle = last.register_forward_pre_hook(stop)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(patched, kind, **HOW)
    finally:
        handle.remove()
    assert kept_objects(host) == []
    for name, module in patched.model.diffusion_model.named_modules():
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name
        assert "forward" not in vars(module), name
    assert torch.isfinite(sample(patched, kind, **HOW)).all()


def test_what_is_kept_is_the_keys_and_values_of_one_call(host: InProcessHost) -> None:
    _, calls = watched(host, cat(host, shared("sd3"), refresh_interval=2), "sd3")
    blocks, width, text, rows, floats = 2, 128, 12, 2, 4
    expected = blocks * 2 * rows * (TOKENS + text) * width * floats
    assert max(call.kept_bytes for call in calls) == expected


def test_half_precision_runs(host: InProcessHost) -> None:
    model = TRANSFORMERS["sd3"].build(dtype=torch.bfloat16)
    _, calls = watched(host, cat(host, model), "sd3")
    assert len(calls.pruned()) == STEPS - WARMUP


def test_positions_of_an_animas_own_blocks_stand_against_pruning(host: InProcessHost) -> None:
    """Those are added on the whole grid, block by block."""
    model = TRANSFORMERS["anima"].build()
    model.model.diffusion_model.extra_per_block_abs_pos_emb = False
    assert watched(host, cat(host, model), "anima")[1].pruned()
    family = host.module("patches.dit.families").family_of(model.model.diffusion_model)
    model.model.diffusion_model.extra_per_block_abs_pos_emb = True
    assert family.unsupported(model.model.diffusion_model) == "its blocks add positions of their own"


def test_a_host_without_the_newer_families_has_the_others(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    families = host.module("patches.dit.families")
    assert [family.name for family in families._of_newer_hosts()] == ["Anima", "Krea 2"]
    assert families._module("comfy.ldm.of_a_version_to_come.model") is None
    monkeypatch.setattr(families, "_module", lambda name: None)
    assert families._of_newer_hosts() == ()


def test_a_picture_closer_to_the_full_one_the_more_tokens_are_kept(host: InProcessHost) -> None:
    full = sample(shared("sd3"), "sd3", **HOW)
    errors = [
        float((watched(host, cat(host, shared("sd3"), keep_ratio=keep), "sd3")[0] - full).square().mean())
        for keep in (0.1, 0.5, 0.9)
    ]
    assert errors == sorted(errors, reverse=True)


def test_other_inputs_of_the_node_act(host: InProcessHost) -> None:
    model = shared("sd3")

    def drawn(**inputs: Any) -> torch.Tensor:
        return sample(cat(host, model, **inputs), "sd3", **HOW)

    usual, published = drawn(), drawn(choose_by="published")
    for inputs in ({"choose_by": "published"}, {"warmup": 0.6}, {"least_full_steps": 5}):
        assert not torch.equal(drawn(**inputs), usual), inputs
    for inputs in ({"clusters": 3}, {"hot_share": 0.8}):
        assert not torch.equal(drawn(**inputs, choose_by="published"), published), inputs
        assert torch.equal(drawn(**inputs), usual), "where tokens are chosen by expected error it has no effect"
