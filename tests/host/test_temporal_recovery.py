"""Recovery from a memory of earlier noise levels: filled, aged, told apart and given back as the samplers ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessHost
from sample_tiny import cond_for, empty_latent
from watching import (
    apply,
    assert_pruned,
    in_halves,
    relative_error,
    same_choices,
    sample,
    schedule,
    shared_model,
    transformers,
    watched_sample,
)

from benchmarks import random_models as tiny_models

POINTS = ("after first layer", "inside first layer", "block start")
ATTENDING = {"ranking": "self-attention", "rank_interval": 2}  # of all rankings it has the most to remember
CFG = 2.0


def temporal(host: InProcessHost, kind: str = "sdxl", ratio: float = 0.63, **inputs: Any) -> Any:
    return apply(host, shared_model(kind), ratio, recovery="temporal", **inputs)


TOP = {"selection": "top-k"}
"""Tokens are then chosen alike whether they take turns or not, while none has waited."""


class Visits:
    """What every visit of the memory found, by condition and block: noise levels and ages."""

    def __init__(self, host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[Any, list[tuple[float, Any]]] = {}
        self.memories: list[Any] = []
        self.held: list[int] = []
        module = host.module("patches.unet.memory")
        original, reset = module.UpdateMemory.visit, module.UpdateMemory.reset

        def visit(memory: Any, uuid: Any, block: str, hidden: Any, grid: Any, sigma: float) -> Any:
            slot = original(memory, uuid, block, hidden, grid, sigma)
            known = None if slot.updates is None else slot.updates
            self.seen.setdefault((uuid, block), []).append((sigma, known))
            return slot

        def forget(memory: Any) -> None:
            self.held.append(sum(1 for v in memory._visits.values() for slot in v.slots if slot.updates is not None))
            self.memories.append(memory)
            reset(memory)

        monkeypatch.setattr(module.UpdateMemory, "visit", visit)
        monkeypatch.setattr(module.UpdateMemory, "reset", forget)


@pytest.fixture
def visits(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> Visits:
    return Visits(host, monkeypatch)


@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
@pytest.mark.parametrize("point", POINTS)
def test_tokens_take_turns_and_come_back_with_their_own_update(
    host: InProcessHost, visits: Visits, kind: str, point: str
) -> None:
    model = temporal(host, kind, prune_from=point, **ATTENDING)
    out, calls = watched_sample(model, kind, steps=6, cfg=1.0)
    assert_pruned(calls, out)
    for found in visits.seen.values():
        assert len({sigma for sigma, _ in found}) == 6
        first, *later = [updates for _, updates in found]
        assert first is None
        assert all(updates is not None for updates in later)
        assert later[0].known.float().mean() < 0.5
        assert later[-1].known.all()
        assert later[-1].age.max() <= 5
    for events in zip(*[call.events for call in calls], strict=True):
        assert not same_choices([events[0]], [events[1]])
    assert torch.equal(out, sample(model, kind, steps=6, cfg=1.0))
    assert not torch.equal(
        out, sample(apply(host, shared_model(kind), prune_from=point, **ATTENDING), kind, steps=6, cfg=1.0)
    )


def test_the_first_call_alone_is_the_stand_ins_update(host: InProcessHost) -> None:
    compared = 0  # only where a last digit did not turn a ranking
    for seed in (1, 2, 3):
        plain, one = watched_sample(apply(host, shared_model("sdxl")), steps=1, cfg=1.0, seed=seed)
        found, other = watched_sample(temporal(host, **TOP), steps=1, cfg=1.0, seed=seed)
        if same_choices(one.events(), other.events()):
            assert relative_error(found, plain) < 1e-5
            compared += 1
    assert compared


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_steps_without_pruning_fill_the_memory_and_stay_bit_identical(
    host: InProcessHost, visits: Visits, kind: str, point: str
) -> None:
    late = schedule(host, early_percent=0.3, early_blocks="all")
    denoised: list[list[torch.Tensor]] = []
    for one in (shared_model(kind), temporal(host, kind, schedule=late, prune_from=point, **ATTENDING)):
        clone, seen = one.clone(), []
        clone.set_model_sampler_post_cfg_function(
            lambda args, seen=seen: seen.append(args["denoised"]) or args["denoised"]
        )
        sample(clone, kind, steps=5)
        denoised.append(seen)
    same = [torch.equal(a, b) for a, b in zip(*denoised, strict=True)]
    assert same[:2] == [True, True]
    assert not same[-1]
    for found in visits.seen.values():
        (_, first), *later = found
        assert first is None
        assert all(updates.known.all() for _, updates in later)


@pytest.mark.parametrize("point", POINTS)
def test_a_whole_pass_remembers_what_a_pruned_pass_would(host: InProcessHost, visits: Visits, point: str) -> None:
    """In the first block, where inputs are still equal, with one token of 64 dropped in the other run."""
    late, own = schedule(host, early_percent=1.0, early_blocks="all"), {"merge": "none", **ATTENDING}
    sample(temporal(host, schedule=late, prune_from=point, **own), steps=2, cfg=1.0)
    whole = first_block(visits)[-1][1]
    visits.seen.clear()
    sample(temporal(host, ratio=0.01, prune_from=point, **own), steps=2, cfg=1.0)
    pruned = first_block(visits)[-1][1]
    assert whole.known.all()
    assert pruned.known.sum() == pruned.known.numel() - 1
    kept = pruned.known.unsqueeze(-1)
    distance = ((pruned.update - whole.update) * kept).norm() / (whole.update * kept).norm()
    assert distance < 0.1


class AddsFirst:
    """A layer of the host that adds to what it is given before it runs."""

    def __init__(self, layer: Any, add: Any) -> None:
        self.layer, self.add = layer, add

    def __call__(self, hidden: torch.Tensor, **given: Any) -> Any:
        return self.layer(self.add(hidden, 0.5), **given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)


def test_layers_that_add_to_their_input_in_place_do_not_change_what_is_remembered(host: InProcessHost) -> None:
    """As those of ComfyUI's earlier versions do."""
    block = transformers(shared_model("sdxl"))["input", 4]
    settings = host.module("atedm_core.unet.ranking").PruneSettings(
        recovery="temporal", prune_from="block start", **ATTENDING
    )
    generator = torch.Generator().manual_seed(6)
    hidden = torch.randn(1, 64, block.in_channels, generator=generator)
    contexts = [torch.randn(1, 77, tiny_models.NARROW_TEXT, generator=generator)] * 2
    found = []
    for add in (torch.Tensor.add, torch.Tensor.add_):
        first, second = block.transformer_blocks
        layers = [AddsFirst(first, add), second]
        known = host.module("atedm_core.unet.temporal").TokenUpdates.none(hidden)
        passed = host.module("patches.unet.pruning_pass").PruningPass(settings, 24, (8, 8), 2, None, known)
        with torch.inference_mode():
            out = passed.run(layers, hidden.clone(), contexts, {"patches": {}})
        assert passed.point == "inside first layer"
        found.append((out, passed.updates.update))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def first_block(visits: Visits) -> list[tuple[float, Any]]:
    (found,) = [found for (_, block), found in visits.seen.items() if block == "input 4"]
    return found


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("late_condition", [False, True])
def test_conditions_may_run_together_or_alone(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch, point: str, late_condition: bool
) -> None:
    import comfy.model_base
    import node_helpers

    positive = cond_for("sdxl", 1)
    if late_condition:
        late = {"start_percent": 0.4, "end_percent": 1.0}
        positive = positive + node_helpers.conditioning_set_values(cond_for("sdxl", 3), late)
    patched = temporal(host, prune_from=point, **ATTENDING)
    together = sample(patched, positive=positive, steps=5, cfg=CFG)
    one_at_a_time = lambda self, shape, **how: 0 if shape[0] == 1 else 1e18  # noqa: E731
    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", one_at_a_time)
    assert relative_error(sample(patched, positive=positive, steps=5, cfg=CFG), together) < 1e-5


def test_a_wrapper_that_splits_the_batch_gives_the_same_picture(host: InProcessHost) -> None:
    """Both halves come under the name of both conditions, and are told apart by their order."""
    model = temporal(host)
    together = sample(model, steps=4, cfg=CFG)

    assert relative_error(sample(in_halves(model), steps=4, cfg=CFG), together) < 1e-3


def test_an_image_does_not_depend_on_its_batch_neighbours(host: InProcessHost) -> None:
    model = temporal(host)
    batch = {**empty_latent(128, 128, 3), "batch_index": [0, 1, 2]}
    together = sample(model, latent=batch, steps=4, cfg=CFG)
    for image in range(3):
        one = {**batch, "samples": batch["samples"][image : image + 1], "batch_index": [image]}
        assert relative_error(together[image : image + 1], sample(model, latent=one, steps=4, cfg=CFG)) < 1e-5


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_sde", "heunpp2", "dpm_adaptive"])
def test_samplers_that_call_more_than_once_a_step(host: InProcessHost, visits: Visits, sampler: str) -> None:
    model = temporal(host)
    denoise = 0.2 if sampler == "dpm_adaptive" else 1.0
    out, calls = watched_sample(model, sampler=sampler, steps=4, cfg=1.0, denoise=denoise)
    assert_pruned(calls, out)
    for found in visits.seen.values():
        levels = [sigma for sigma, _ in found]
        assert len(levels) > 4
        for (sigma, updates), (before, _) in zip(found[1:], found, strict=False):
            if updates is not None and sigma == before:
                # A second call at a level has seen fewer levels than the first.
                assert updates.age.max() <= len(set(levels))
    if sampler != "dpm_adaptive":  # which takes 50 calls and more
        assert torch.equal(out, sample(model, sampler=sampler, steps=4, cfg=1.0))


def test_calls_at_one_level_are_remembered_apart(host: InProcessHost, visits: Visits) -> None:
    """Guidance by perturbation runs the positive a second time with its attention changed: that must not leak."""
    (guided,) = host.call("PerturbedAttentionGuidance", model=temporal(host), scale=0.0)
    (plain,) = host.call("PerturbedAttentionGuidance", model=temporal(host), scale=3.0)
    assert not torch.equal(sample(guided, steps=3), sample(plain, steps=3))
    visits.seen.clear()
    sample(plain, steps=3)
    assert sorted({len(found) for found in visits.seen.values()}) == [3, 6]
    for found in visits.seen.values():
        if len(found) == 6:
            assert [updates is None for _, updates in found] == [True, True, False, False, False, False]
            assert not torch.equal(found[2][1].update, found[3][1].update)


def test_tiles_fall_back_to_the_stand_in(host: InProcessHost, visits: Visits) -> None:
    """A third call at a level: other parts of the picture under one name and of one size."""

    def tiled(one: Any) -> Any:
        def tile(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
            parts = [apply_model(x, given["timestep"], **given["c"]) for x in given["input"].chunk(4, dim=-1)]
            return torch.cat(parts, dim=-1)

        clone = one.clone()
        clone.set_model_unet_function_wrapper(tile)
        return clone

    how: dict[str, Any] = {"width": 512, "height": 128, "steps": 3, "cfg": 1.0}
    out, calls = watched_sample(tiled(temporal(host, **TOP)), **how)
    assert_pruned(calls, out)
    for found in visits.seen.values():
        assert all(updates is None for _, updates in found)
    assert visits.held == [0]
    plain = sample(tiled(apply(host, shared_model("sdxl"))), **how)
    assert relative_error(out, plain) < 1e-5


def test_a_change_of_size_begins_anew(host: InProcessHost, visits: Visits) -> None:
    patched = temporal(host)
    small = sample(patched, steps=3)
    large = sample(patched, steps=3, width=192, height=160)
    assert torch.equal(sample(patched, steps=3), small)
    assert torch.equal(sample(patched, steps=3, width=192, height=160), large)
    module = host.module("patches.unet.memory")
    memory = module.UpdateMemory()
    hidden = torch.zeros(1, 12, 4)
    core = host.module("atedm_core.unet.temporal")
    memory.visit("a", "input 4", hidden, (3, 4), 5.0).updates = core.TokenUpdates.none(hidden)
    assert memory.visit("a", "input 4", hidden, (3, 4), 4.0).updates is not None
    assert memory.visit("b", "input 4", hidden, (3, 4), 4.0).updates is None
    assert memory.visit("a", "input 5", hidden, (3, 4), 4.0).updates is None
    for other, grid in ((hidden, (4, 3)), (torch.zeros(2, 12, 4), (3, 4)), (hidden.double(), (3, 4))):
        assert memory.visit("a", "input 4", other, grid, 3.0).updates is None


def test_the_memory_is_given_back_even_by_an_interrupted_run(host: InProcessHost, visits: Visits) -> None:
    import comfy.model_management

    patched = temporal(host)
    fresh = sample(patched, steps=4)
    stopped = patched.clone()

    def stop(args: dict[str, Any]) -> torch.Tensor:
        if sum(len(found) for found in visits.seen.values()) > 40:
            raise comfy.model_management.InterruptProcessingException
        return args["denoised"]

    visits.seen.clear()
    stopped.set_model_sampler_post_cfg_function(stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(stopped, steps=4)
    assert all(held > 0 for held in visits.held)
    assert all(not memory._visits for memory in visits.memories)
    assert torch.equal(sample(patched, steps=4), fresh)


def test_nothing_is_remembered_unless_asked_for(host: InProcessHost, visits: Visits) -> None:
    for model in (
        apply(host, shared_model("sdxl")),
        temporal(host, ratio=0.0),
        temporal(host, schedule=schedule(host, half_level=0.0, quarter_level=0.0)),
    ):
        sample(model)
    assert visits.seen == {}
    dagger = schedule(host, early_percent=0.0, half_level=0.0)
    sample(temporal(host, schedule=dagger))
    assert len({block for _, block in visits.seen}) < 11


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_steps_that_a_cache_skips_make_no_token_older_than_another(
    host: InProcessHost, visits: Visits, cache: str
) -> None:
    (cached,) = host.call(
        cache, model=temporal(host), reuse_threshold=5.0, start_percent=0.1, end_percent=0.95, verbose=False
    )
    out = sample(cached, steps=8, cfg=1.0)
    assert torch.isfinite(out).all()
    for found in visits.seen.values():
        assert 1 < len(found) < 8
        assert [updates.age.max().item() <= visit + 1 for visit, (_, updates) in enumerate(found) if visit]


def test_a_picture_to_start_from_in_few_steps(host: InProcessHost) -> None:
    start = {"samples": torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(5))}
    out, calls = watched_sample(temporal(host), latent=start, denoise=0.5, steps=2)
    assert_pruned(calls, out)


@pytest.mark.parametrize("point", POINTS)
def test_without_a_ranking_every_step_drops_where_asked_and_nothing_is_ranked(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    asked: list[str] = []
    for place, name in (("atedm_core.unet.ranking", "gwpr"), ("patches.unet.pruning_pass", "AttentionView")):
        monkeypatch.setattr(host.module(place), name, lambda *args, name=name: asked.append(name))
    model = temporal(host, prune_from=point, ranking="none")
    out, calls = watched_sample(model, steps=4, cfg=1.0)
    assert_pruned(calls, out)
    assert asked == []
    for events in zip(*[call.events for call in calls], strict=True):
        assert not same_choices([events[0]], [events[1]])
    (report,) = calls.reports
    cost, structure = host.module("atedm_core.unet.flops"), host.module("patches.unet.structure")
    choosing_flops = host.module("atedm_core.unet.choosing_flops").choosing_flops
    settings = host.module("atedm_core.unet.settings").PruneSettings("none")
    blocks = structure.describe_unet(shared_model("sdxl").model.diffusion_model).blocks
    for block in blocks:
        tokens = {1: 64, 2: 16}[block.level]
        kept = max(1, round(tokens * 0.37))
        expected = cost.block_flops(block, tokens, kept, point=cost.prune_point(block.layers, point), weighted=True)
        expected += choosing_flops(settings, block.width, tokens, kept)
        assert {t.flops for (_, name), t in report.tallies.items() if name == block.name} == {4 * expected}


def test_a_run_that_goes_back_to_more_noise_stays_finite_and_repeatable(host: InProcessHost, visits: Visits) -> None:
    """Restart samplers: what is remembered is then of a much cleaner picture, and is judged by the kept tokens."""
    import comfy.k_diffusion.sampling as sampling
    import comfy.samplers

    def restarting(model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any, **how: Any) -> torch.Tensor:
        down = sampling.sample_euler(model, x, sigmas, extra_args, disable=True)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        return sampling.sample_euler(model, down + noise * sigmas[0], sigmas, extra_args, disable=True)

    sampler = comfy.samplers.KSAMPLER(restarting)
    sigmas = torch.tensor([8.0, 3.0, 1.0, 0.3, 0.0])
    latent = {"samples": torch.zeros(1, 4, 16, 16)}

    def run() -> torch.Tensor:
        import nodes

        custom = nodes.NODE_CLASS_MAPPINGS["SamplerCustom"]
        given = (cond_for("sdxl", 1), cond_for("sdxl", 2), sampler, sigmas, latent)
        with torch.inference_mode():
            result = custom.execute(temporal(host), True, 5, 1.0, *given)
        out: torch.Tensor = result.result[0]["samples"]
        return out

    first = run()
    assert torch.isfinite(first).all()
    for found in visits.seen.values():
        assert [sigma for sigma, _ in found] == [8.0, 3.0, 1.0, pytest.approx(0.3)] * 2
        assert found[4][1] is not None
    assert torch.equal(run(), first)
