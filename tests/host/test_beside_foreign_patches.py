"""AT-EDM beside patches of other packs: they see the whole token grid in every layer, in whatever order nodes stand.

What is promised. At ratio 0 the result is bit for bit what it is without AT-EDM. Where tokens are dropped, a patch that
does nothing in a layer changes nothing there beyond rounding, and costs nothing. One that acts on self-attention makes
it run over the whole grid, dropped tokens being stood for by others: there a kept token counts as often as it stands
for something, which is a different, defined result.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign_patches import FOREIGN, grid_tokens, lora, lora_file
from in_process import InProcessHost
from watching import (
    RATIO,
    Calls,
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

KINDS = ("sdxl", "sd15")
EXCEPT = {("ToMe", "sdxl")}  # acts at the latent's own resolution, where SDXL has no attention
CASES = [(name, kind) for name in FOREIGN for kind in KINDS if (name, kind) not in EXCEPT]
LATENT = {"width": 96, "height": 128}


def steps_for(name: str) -> int:
    return 4 if name.endswith("Cache") else 2


def run(model: Any, kind: str, name: str = "", **how: Any) -> tuple[torch.Tensor, Calls]:
    return watched_sample(model, kind, steps=steps_for(name), **LATENT, **how)


_alone: dict[tuple[str, int, float], torch.Tensor] = {}


def alone(host: InProcessHost, kind: str, name: str, ratio: float) -> torch.Tensor:
    """The same run without the foreign patch."""
    key = (kind, steps_for(name), ratio)
    if key not in _alone:
        model = shared_model(kind)
        _alone[key] = run(apply(host, model, ratio) if ratio else model, kind, name)[0]
    return _alone[key]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_ratio_zero_beside_others_is_bit_identical(host: InProcessHost, name: str, kind: str) -> None:
    model = shared_model(kind)
    foreign = FOREIGN[name]
    expected, _ = run(foreign(host, model), kind, name)
    assert not torch.equal(expected, alone(host, kind, name, 0.0)), "the foreign patch does nothing here"
    assert torch.equal(run(apply(host, foreign(host, model), 0.0), kind, name)[0], expected)
    assert torch.equal(run(foreign(host, apply(host, model, 0.0)), kind, name)[0], expected)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_pruning_beside_others_in_either_order(host: InProcessHost, name: str, kind: str) -> None:
    model = shared_model(kind)
    foreign = FOREIGN[name]
    after, calls = run(apply(host, foreign(host, model)), kind, name)
    before, _ = run(foreign(host, apply(host, model)), kind, name)
    assert_pruned(calls, after)
    assert torch.equal(after, before)
    assert not torch.equal(after, alone(host, kind, name, RATIO))
    assert not torch.equal(after, run(foreign(host, model), kind, name)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 13)])
def test_foreign_patches_see_the_whole_grid_in_every_layer(
    host: InProcessHost, kind: str, height: int, width: int
) -> None:
    model = shared_model(kind)
    seen: dict[str, list[tuple[Any, int]]] = {}

    def check(name: str, options: dict[str, Any], *tensors: torch.Tensor) -> None:
        expected = grid_tokens(options)
        assert [tensor.shape[1] for tensor in tensors] == [expected] * len(tensors), (name, options["block"])
        seen.setdefault(name, []).append((options["block"], options["block_index"]))

    def attn1(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
        check("attn1_patch", options, q, k, v)
        return q, k, v

    def attn2(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
        check("attn2_patch", options, q)
        assert k.shape[1] == v.shape[1] == 77
        return q, k, v

    def passing(name: str) -> Any:
        def patch(x: Any, options: dict[str, Any]) -> Any:
            check(name, options, x)
            return x

        return patch

    clone = model.clone()
    clone.set_model_attn1_patch(attn1)
    clone.set_model_attn2_patch(attn2)
    for name in ("attn1_output_patch", "middle_patch", "attn2_output_patch"):
        clone.set_model_patch(passing(name), name)
    out, calls = watched_sample(apply(host, clone), kind, steps=1, latent={"samples": torch.zeros(1, 4, height, width)})
    assert_pruned(calls, out)
    layers = [(place, n) for place, block in transformers(model).items() for n in range(len(block.transformer_blocks))]
    assert len(layers) > 10
    for name in ("attn1_patch", "attn1_output_patch", "middle_patch", "attn2_patch", "attn2_output_patch"):
        assert sorted(seen[name]) == sorted(layers)


@pytest.mark.parametrize("which", ["attn1", "attn2"])
@pytest.mark.parametrize("kind", KINDS)
def test_replacements_see_the_whole_grid_in_every_layer(host: InProcessHost, kind: str, which: str) -> None:
    from comfy.ldm.modules.attention import optimized_attention

    model = shared_model(kind)
    seen: list[tuple[Any, int]] = []

    def attend(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
        assert q.shape[1] == grid_tokens(options)
        assert k.shape[1] == v.shape[1] == (grid_tokens(options) if which == "attn1" else 77)
        seen.append((options["block"], options["block_index"]))
        return optimized_attention(q, k, v, options["n_heads"], transformer_options=options)

    layers = [(place, n) for place, block in transformers(model).items() for n in range(len(block.transformer_blocks))]
    clone = model.clone()
    for place, layer in layers:
        # every other one by its full name, the rest by the block's
        clone.set_model_patch_replace(attend, which, *place, *((layer,) if layer % 2 else ()))
    out, calls = watched_sample(apply(host, clone), kind, steps=1, **LATENT)
    assert_pruned(calls, out)
    assert sorted(seen) == sorted(layers)


def nothing_on_self_attention(model: Any) -> Any:
    clone = model.clone()
    clone.set_model_attn1_patch(lambda q, k, v, options: (q, k, v))
    clone.set_model_attn1_output_patch(lambda out, options: out)
    return clone


def nothing_on_cross_attention(model: Any) -> Any:
    clone = model.clone()
    clone.set_model_attn2_patch(lambda q, k, v, options: (q, k, v))
    clone.set_model_attn2_output_patch(lambda out, options: out)
    return clone


def nothing_in_the_middle(model: Any) -> Any:
    clone = model.clone()
    clone.set_model_patch(lambda x, options: x, "middle_patch")
    return clone


def nothing_by_couple(model: Any) -> Any:
    clone = model.clone()
    clone.set_model_attn2_patch(lambda q, k, v, o: (q.repeat(2, 1, 1), k.repeat(2, 1, 1), v.repeat(2, 1, 1)))
    clone.set_model_attn2_output_patch(lambda out, options: out.unflatten(0, (2, -1)).mean(0))
    return clone


NOTHING = [nothing_on_self_attention, nothing_on_cross_attention, nothing_in_the_middle, nothing_by_couple]


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("ranking", ["self-attention", "cross-attention"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_that_does_nothing_changes_nothing(host: InProcessHost, kind: str, ranking: str, nothing: Any) -> None:
    """Compared where both runs kept the same tokens: rounding may turn a ranking around."""
    model = shared_model(kind)
    compared = 0
    for seed in (1, 2):
        expected, calls = watched_sample(apply(host, model, ranking=ranking), kind, seed=seed, cfg=2.0)
        out, others = watched_sample(apply(host, nothing(model), ranking=ranking), kind, seed=seed, cfg=2.0)
        if same_choices(calls.events(), others.events()):
            assert relative_error(out, expected) < 1e-5
            compared += 1
    assert compared


def test_self_attention_beside_a_patch_counts_those_a_token_stands_for(host: InProcessHost) -> None:
    """What bracketed self-attention is: kept tokens ask, and each kept key weighs as much as it stands for."""
    model = shared_model("sdxl")
    clone = model.clone()
    clone.set_model_attn1_patch(lambda q, k, v, options: (q * 1.0, k, v))
    passes: list[tuple[torch.Tensor, torch.Tensor]] = []
    attention = transformers(model)["output", 4].transformer_blocks[1].attn1
    handle = attention.register_forward_hook(lambda module, args, out: passes.append((args[0], out)))
    try:
        _, calls = watched_sample(apply(host, clone), steps=1)
    finally:
        handle.remove()
    (hidden, out), *_ = passes
    (subset,) = [event.subset for event in calls.events() if event.block.name == "output 4"]
    assert hidden.shape[1] == subset.total
    kept = subset.gather(hidden)
    assert torch.equal(hidden, subset.expand(kept))
    stands_for = torch.zeros(kept.shape[:2]).scatter_add(1, subset.source_index, torch.ones(hidden.shape[:2]))
    assert stands_for.max() > 1
    with torch.inference_mode():
        q, k, v = (
            p(kept).unflatten(2, (attention.heads, -1)).transpose(1, 2)
            for p in (attention.to_q, attention.to_k, attention.to_v)
        )
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + stands_for.log()[:, None, None]
        weighted = attention.to_out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert relative_error(subset.gather(out), weighted) < 1e-4


def test_hypertile_tiles_layers_that_run_on_fewer_tokens(host: InProcessHost) -> None:
    """It knows a layer by its number of tokens, so it would leave layers alone that run on fewer."""
    model = shared_model("sdxl")
    tiled = FOREIGN["HyperTile"](host, apply(host, model))
    with layer_tokens(model) as seen:
        sample(tiled, steps=1)
    assert {section["attn1"] for section in seen["input", 4, 1]} == {16}
    assert {section["attn1"] for section in seen["input", 4, 0]} == {16}
    assert {section["ff"] for section in seen["input", 4, 1]} == {24}


@pytest.mark.parametrize("name", ["IP-Adapter with a mask", "self-attention patches"])
def test_only_what_has_to_runs_on_the_whole_grid(host: InProcessHost, name: str) -> None:
    model = shared_model("sdxl")
    with layer_tokens(model) as seen:
        sample(apply(host, FOREIGN[name](host, model)), steps=1)
    by_self = name == "self-attention patches"
    for passes in (seen["input", 4, 1], seen["output", 5, 1]):
        for sections in passes:
            assert sections["ff"] == 24
            assert sections["attn1"] == (64 if by_self else 24)
            assert sections.get("attn2", 24) == 24


def test_layers_that_a_patch_leaves_alone_run_on_the_kept_tokens(host: InProcessHost) -> None:
    """HyperTile acts on the highest levels only, and gives back what it was given everywhere else."""
    (tiled,) = host.call("HyperTile", model=shared_model("sd15"), tile_size=32, swap_size=2, max_depth=1)
    start = {"prune_from": "block start"}
    how: dict[str, Any] = {"kind": "sd15", "steps": 1, "width": 256, "height": 256}
    with layer_tokens(tiled) as seen:
        _, calls = watched_sample(apply(host, tiled, **start), **how)
    tokens = {part + str(index): {one["attn1"] for one in passes} for (part, index, _), passes in seen.items()}
    folded, quarter = tokens["input1"], tokens["input7"]
    assert max(folded) < kept_of(32 * 32), "four by four tokens, or another fold of all of them"
    assert quarter == {kept_of(8 * 8)}
    alone = watched_sample(
        apply(host, shared_model("sd15"), prune_from="block start"), "sd15", steps=1, width=256, height=256
    )[1]
    for level, costs_more in ((0, True), (2, False)):
        beside, by_itself = (spent_at(one.reports[0], host, level) for one in (calls, alone))
        assert (beside > by_itself) == costs_more


def kept_of(tokens: int) -> int:
    return max(1, round(tokens * (1 - RATIO)))


def spent_at(report: Any, host: InProcessHost, level: int) -> int:
    """FLOPs in the attention blocks of a level of SD 1.5."""
    unet = shared_model("sd15").model.diffusion_model
    blocks = host.module("patches.unet.structure").describe_unet(unet).blocks
    names = {block.name for block in blocks if block.level == level}
    return sum(tally.flops for (_, name), tally in report.tallies.items() if name in names)


def test_what_a_patch_changes_in_place_is_changed(host: InProcessHost) -> None:
    """A patch may write to what it is given and give it back."""

    def scaled(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
        return q.mul_(0.5), k, v

    model = shared_model("sdxl").clone()
    model.set_model_attn1_patch(scaled)
    in_place, calls = watched_sample(apply(host, model), steps=1)
    assert_pruned(calls, in_place)
    assert not torch.equal(in_place, sample(apply(host, shared_model("sdxl")), steps=1))


@pytest.mark.parametrize("name", ["IP-Adapter with a mask", "self-attention patches"])
def test_the_cost_of_the_whole_grid_is_counted(host: InProcessHost, name: str) -> None:
    model = shared_model("sdxl")

    def spent(one: Any) -> tuple[int, int]:
        _, calls = watched_sample(one, steps=1)
        tallies = calls.reports[0].tallies.values()
        return sum(tally.flops for tally in tallies), sum(tally.flops_full for tally in tallies)

    alone, full = spent(apply(host, model))
    beside, same_full = spent(apply(host, FOREIGN[name](host, model)))
    assert alone < beside < full == same_full


def test_lora_is_ranked_and_run_with_its_weights(host: InProcessHost) -> None:
    """The same as a model that was made with those weights."""
    from benchmarks import random_models as tiny_models

    model = shared_model("sdxl")
    merged = tiny_models.KINDS["sdxl"].build()
    state = merged.model.state_dict()
    file = lora_file(model)
    for name in [n for n in file if n.endswith("lora_up.weight")]:
        delta = file[name] @ file[name.replace("lora_up", "lora_down")]
        state[name.replace(".lora_up", "")] += 0.8 * delta
    expected, calls = watched_sample(apply(host, merged), cfg=2.0)
    out, others = watched_sample(apply(host, lora(host, model)), cfg=2.0)
    assert_pruned(others, out)
    assert same_choices(calls.events(), others.events())
    assert relative_error(out, expected) < 1e-4


def controlnet(kind: str) -> Any:
    """A real ControlNet of the host with random weights, in the shape of a tiny model."""
    from benchmarks import random_models as tiny_models

    control = tiny_models.controlnet(shared_model(kind))
    return control.set_cond_hint(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2)), 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_controlnet(host: InProcessHost, kind: str) -> None:
    from sample_tiny import cond_for

    model = shared_model(kind)
    positive, negative = (
        [[tensor, {**extra, "control": control, "control_apply_to_uncond": False}]]
        for control in [controlnet(kind)]
        for tensor, extra in (cond_for(kind, 1)[0], cond_for(kind, 2)[0])
    )
    how = {"positive": positive, "negative": negative}
    plain = sample(model, kind, **how)
    assert not torch.equal(plain, sample(model, kind))
    assert torch.equal(sample(apply(host, model, 0.0), kind, **how), plain)
    out, calls = watched_sample(apply(host, model), kind, **how)
    assert_pruned(calls, out)
    assert torch.equal(out, sample(apply(host, model), kind, **how))
    assert not torch.equal(out, sample(apply(host, model), kind))


def test_an_attention_override_of_another_pack_is_called_all_the_same(host: InProcessHost) -> None:
    """As Sage and flash attention nodes do: the slot is single, ours passes it on."""
    model = shared_model("sdxl")
    counts = []
    results = []
    for one in (model, apply(host, model, schedule=schedule(host)), apply(host, model)):
        called: list[int] = []

        def override(attention: Any, *args: Any, called: list[int] = called, **kwargs: Any) -> torch.Tensor:
            called.append(args[0].shape[1])
            return attention(*args, **kwargs) * 1.0

        clone = one.clone()
        clone.model_options["transformer_options"]["optimized_attention_override"] = override
        results.append(sample(clone, steps=1))
        counts.append(len(called))
        assert clone.model_options["transformer_options"]["optimized_attention_override"] is override
    assert counts[0] == counts[1] == counts[2] > 0
    assert torch.equal(results[2], sample(apply(host, model), steps=1))


def test_caches_skip_calls_beside_pruning(host: InProcessHost) -> None:
    model = apply(host, shared_model("sdxl"))
    _, full = watched_sample(model, steps=6)
    for name in ("EasyCache", "LazyCache"):
        out, calls = watched_sample(FOREIGN[name](host, model), steps=6)
        assert_pruned(calls, out)
        (report,) = calls.reports
        spent = {tally.calls for tally in report.tallies.values()}
        assert max(spent) < len(full)
