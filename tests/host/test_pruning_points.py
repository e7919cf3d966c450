"""Where in an attention block tokens are dropped, and for how long a ranking serves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessHost
from sample_tiny import cond_for
from watching import (
    RATIO,
    apply,
    assert_pruned,
    layer_tokens,
    relative_error,
    same_choices,
    sample,
    schedule,
    shared_model,
    transformers,
    watched_sample,
)

from benchmarks import random_models as tiny_models

ATTENDING = {"ranking": "self-attention"}
POINTS = ("after first layer", "inside first layer", "block start")


def kept(tokens: int) -> int:
    return max(1, round(tokens * (1 - RATIO)))


def first_layer(point: str, full: int, layers: int, *, ranks: bool) -> dict[str, int]:
    """Tokens in the sections of a block's first layer."""
    few = kept(full)
    if point == "after first layer" and layers > 1:
        return {"attn1": full, "attn2": full, "ff": full}
    if point == "block start" and not ranks:
        return {"attn1": few, "attn2": few, "ff": few}
    return {"attn1": full, "attn2": few, "ff": few}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("ranking", ["self-attention", "redundancy"])
@pytest.mark.parametrize("kind", tiny_models.UNETS)
def test_tokens_are_dropped_where_prune_from_says(host: InProcessHost, kind: str, ranking: str, point: str) -> None:
    model = shared_model(kind)
    with layer_tokens(model) as plain:
        sample(model, kind, steps=4, cfg=1.0)
    with layer_tokens(model) as pruned:
        sample(apply(host, model, prune_from=point, ranking=ranking, rank_interval=3), kind, steps=4, cfg=1.0)
    layers = {place: len(block.transformer_blocks) for place, block in transformers(model).items()}
    for (part, index, layer), passes in plain.items():
        for step, (before, after) in enumerate(zip(passes, pruned[part, index, layer], strict=True)):
            full = before["attn1"]
            if layer > 0:
                assert after == dict.fromkeys(("attn1", "attn2", "ff"), kept(full))
            else:
                ranks = ranking == "self-attention" and step % 3 == 0
                assert after == first_layer(point, full, layers[part, index], ranks=ranks)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("interval", [1, 3])
def test_a_ranking_serves_as_many_noise_levels_as_asked(
    host: InProcessHost, monkeypatch: Any, point: str, interval: int
) -> None:
    module = host.module("atedm_core.unet.ranking")
    ranked: list[int] = []
    original = module.gwpr
    monkeypatch.setattr(module, "gwpr", lambda *a, **k: ranked.append(1) or original(*a, **k))
    out, calls = watched_sample(
        apply(host, shared_model("sdxl"), prune_from=point, rank_interval=interval, **ATTENDING), steps=7, cfg=1.0
    )
    assert_pruned(calls, out)
    assert len(ranked) == 11 * (7 if interval == 1 else 3)
    by_block: dict[str, list[Any]] = {}
    for event in calls.events():
        by_block.setdefault(event.block.name, []).append(event)
    for step in range(1, 7):
        same = [same_choices([events[step]], [events[step - 1]]) for events in by_block.values()]
        # Two rankings of a small grid may agree by chance, though not in every block.
        assert all(same) == (step % interval != 0)


def test_samplers_that_call_twice_a_step_age_a_ranking_by_noise_levels(host: InProcessHost, monkeypatch: Any) -> None:
    module = host.module("atedm_core.unet.ranking")
    ranked: list[int] = []
    original = module.gwpr
    monkeypatch.setattr(module, "gwpr", lambda *a, **k: ranked.append(1) or original(*a, **k))
    _, calls = watched_sample(
        apply(host, shared_model("sdxl"), rank_interval=4, **ATTENDING), steps=4, cfg=1.0, sampler="heun"
    )
    assert len({call.sigma for call in calls}) == 4
    assert len(calls) > 4
    assert len(ranked) == 11


def tiles(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
    """Parts of the picture one after the other, under one name and of one size."""
    parts = [apply_model(x, given["timestep"], **given["c"]) for x in given["input"].chunk(2, dim=-1)]
    return torch.cat(parts, dim=-1)


def reference_first(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
    """Another picture goes through the model before the one that is sampled."""
    apply_model(given["input"].flip(-1) * 0.5, given["timestep"], **given["c"])
    out: torch.Tensor = apply_model(given["input"], given["timestep"], **given["c"])
    return out


def windows_in_turn() -> Any:
    """Two windows a step that go round the batch, as context windows over frames do."""
    step = 0

    def evaluate(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
        nonlocal step
        step += 1
        turned = torch.roll(given["input"], step, 0)
        c = {key: value[:2] if isinstance(value, torch.Tensor) else value for key, value in given["c"].items()}
        parts = [apply_model(x, given["timestep"][:2], **c) for x in turned.chunk(2)]
        return torch.roll(torch.cat(parts), -step, 0)

    return evaluate


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("others", ["tiles", "a reference", "context windows"])
def test_a_remembered_ranking_is_not_handed_to_another_picture(host: InProcessHost, others: str, sampler: str) -> None:
    """Every picture keeps the tokens that it would if the tokens were ranked at every step."""
    batch = 4 if others == "context windows" else 1
    found = []
    for interval in (1, 4):
        model = apply(host, shared_model("sdxl"), rank_interval=interval, **ATTENDING).clone()
        wrappers = {"tiles": tiles, "a reference": reference_first, "context windows": windows_in_turn()}
        model.set_model_unet_function_wrapper(wrappers[others])
        how: dict[str, Any] = {"width": 256, "height": 128, "batch": batch, "steps": 4, "cfg": 1.0}
        found.append(watched_sample(model, sampler=sampler, **how))
    (fresh, expected), (out, calls) = found
    assert_pruned(calls, out)
    assert same_choices(calls.events(), expected.events())
    assert torch.equal(out, fresh)


def test_a_reference_that_ends_early_costs_rankings_not_the_picture(host: InProcessHost) -> None:
    """What came by as several pictures once is ranked afresh to the end of the run."""
    memory = host.module("patches.unet.memory")
    tokens = host.module("atedm_core.tokens")
    form = (1, torch.device("cpu"), (2, 2))
    rankings = memory.RankMemory(20)
    subset = tokens.TokenSubset.top(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), 2)

    def visit(*moment: Any) -> bool:
        ((_, remembered),) = rankings.groups(["a"], "input 4", form, moment)
        if remembered is None:
            rankings.store(["a"], "input 4", memory.Ranking(torch.zeros(1, 4), subset, (2, 2), moment[1]))
        return remembered is not None

    assert [visit(1, 9.0), visit(2, 8.0), visit(3, 8.0)] == [False, True, True]
    assert [visit(4, 7.0), visit(4, 7.0)] == [True, False]
    assert [visit(5, 6.0), visit(6, 5.0)] == [False, False]
    rankings.reset()
    assert [visit(1, 9.0), visit(2, 8.0)] == [False, True]


@pytest.mark.parametrize("point", POINTS)
def test_twice_the_same_run_gives_the_same_bits(host: InProcessHost, point: str) -> None:
    patched = apply(host, shared_model("sdxl"), prune_from=point, rank_interval=2, **ATTENDING)
    assert torch.equal(sample(patched, steps=4), sample(patched, steps=4))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    "inputs", [{}, {"rank_interval": 3, **ATTENDING}, {"rank_interval": 3, "stand_in": "attention", **ATTENDING}]
)
def test_conditions_may_run_together_or_alone_even_if_one_begins_later(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch, point: str, inputs: dict[str, Any]
) -> None:
    """A condition without a ranking gets one of its own, whoever runs beside it."""
    assert_the_same_alone(monkeypatch, apply(host, shared_model("sdxl"), prune_from=point, **inputs), begins_later())


def begins_later() -> Any:
    """A positive of two conditions, one of which is there from 40 % on."""
    import node_helpers

    late = node_helpers.conditioning_set_values(cond_for("sdxl", 3), {"start_percent": 0.4, "end_percent": 1.0})
    return cond_for("sdxl", 1) + late


def assert_the_same_alone(monkeypatch: pytest.MonkeyPatch, model: Any, positive: Any, steps: int = 6) -> None:
    """Conditions that the host runs together give the picture that they give one after the other."""
    import comfy.model_base

    together = sample(model, positive=positive, steps=steps, cfg=2.0)
    one_at_a_time = lambda self, shape, **how: 0 if shape[0] == 1 else 1e18  # noqa: E731
    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", one_at_a_time)
    assert relative_error(sample(model, positive=positive, steps=steps, cfg=2.0), together) < 1e-5


@pytest.mark.parametrize("rising", [{"ramp": "linear"}, {"early_ratio": 0.3}])
def test_conditions_whose_rankings_kept_different_numbers_of_tokens(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch, rising: dict[str, Any]
) -> None:
    """Where the ratio rises between their rankings, neither is due while they run side by side."""
    ramp = schedule(host, early_percent=0.39, early_blocks="all", **rising)
    model = apply(host, shared_model("sdxl"), schedule=ramp, rank_interval=20, **ATTENDING)
    assert_the_same_alone(monkeypatch, model, begins_later())


def test_a_change_of_size_or_of_ratio_ranks_afresh(host: InProcessHost) -> None:
    """Each run begins without rankings, and a ramp changes how many tokens stay from step to step."""
    patched = apply(host, shared_model("sdxl"), prune_from="block start", rank_interval=20, **ATTENDING)
    small = sample(patched, steps=3)
    large = sample(patched, steps=3, width=192, height=160)
    assert torch.equal(sample(patched, steps=3), small)
    assert torch.equal(sample(patched, steps=3, width=192, height=160), large)
    ramp = host.call("ATEDMSchedule", early_percent=1.0, early_blocks="all", early_ratio=0.2, ramp="linear")[0]
    out, calls = watched_sample(
        apply(host, shared_model("sdxl"), schedule=ramp, prune_from="block start", rank_interval=20, **ATTENDING),
        steps=5,
        cfg=1.0,
    )
    assert torch.isfinite(out).all()
    kept_by_step = [[event.subset.kept for event in call.events if event.block.name == "input 4"] for call in calls]
    assert kept_by_step == sorted(kept_by_step, reverse=True)
    assert len({tuple(found) for found in kept_by_step}) > 3


def test_the_layers_own_attention_is_what_the_host_computes(host: InProcessHost, monkeypatch: Any) -> None:
    """Taking the log-sum-exp along must not change a bit of the attention it comes with."""
    module = host.module("patches.unet.attention_view")
    patched = apply(host, shared_model("sdxl"), **ATTENDING)
    taken: list[int] = []
    original = module.attention_with_log_sum_exp
    monkeypatch.setattr(module, "attention_with_log_sum_exp", lambda *a: taken.append(1) or original(*a))
    with_it = sample(patched)
    assert taken
    monkeypatch.setattr(module, "attention_with_log_sum_exp", lambda *a: None)
    torch.testing.assert_close(sample(patched), with_it, rtol=1e-5, atol=1e-4)


def test_a_level_can_be_left_whole(host: InProcessHost) -> None:
    dagger = host.call("ATEDMSchedule", early_percent=0.0, half_level=0.0)[0]
    _, calls = watched_sample(apply(host, shared_model("sdxl"), schedule=dagger))
    assert {event.block.level for event in calls.events()} == {2}


def test_a_level_that_the_model_lacks_is_refused_by_name(host: InProcessHost) -> None:
    wrong = host.call("ATEDMSchedule", full_level=0.5)[0]
    with pytest.raises(ValueError, match=r"full_level is 0\.5.*only at: half, quarter"):
        apply(host, shared_model("sdxl"), schedule=wrong)
    assert apply(host, shared_model("sd15"), schedule=wrong)


def test_the_budget_is_what_the_run_then_saves(host: InProcessHost) -> None:
    """Predicted and actual agree: the ratio it gives saves the attention FLOPs it promised."""
    model = shared_model("sdxl")
    flat = host.call("ATEDMSchedule", early_percent=0.0)[0]
    ratio, report = host.call("ATEDMBudget", model=model, width=256, height=256, saving=0.1, schedule=flat)
    _, calls = watched_sample(apply(host, model, ratio, schedule=flat), width=256, height=256, steps=1, cfg=1.0)
    (found,) = calls.reports
    saved = sum(spent.flops_full - spent.flops for spent in found.tallies.values())
    structure = host.module("patches.unet.structure").describe_unet(model.model.diffusion_model)
    full = host.module("atedm_core.unet.flops").unet_flops(structure, (32, 32))
    assert 0.1 <= saved / full < 0.105
    assert "ideal speed-up" in report


@pytest.mark.parametrize("saving", [0.9])
def test_a_budget_that_cannot_be_reached_names_the_most_that_can(host: InProcessHost, saving: float) -> None:
    with pytest.raises(ValueError, match=r"saving is 90\.0%.*at most"):
        host.call("ATEDMBudget", model=shared_model("sdxl"), width=512, height=512, saving=saving)


def test_a_budget_needs_a_unet(host: InProcessHost) -> None:
    with pytest.raises(ValueError, match="SD3"):
        host.call("ATEDMBudget", model=shared_model("sd3"), width=512, height=512, saving=0.2)
