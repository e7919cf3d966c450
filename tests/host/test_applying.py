"""Putting AT-EDM on a model: what is refused and how, what replaces what, and that nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from watching import RATIO, apply, assert_pruned, sample, schedule, shared_model, watched_sample

HANDLERS = "forward_timestep_embed_patch"


def handlers(model: Any) -> list[Any]:
    found: list[Any] = model.model_options["transformer_options"].get("patches", {}).get(HANDLERS, [])
    return found


def wrappers(model: Any) -> list[Any]:
    import comfy.patcher_extension

    found: list[Any] = model.get_all_wrappers(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE)
    return found


def test_the_given_model_is_left_as_it_was(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    apply(host, model)
    assert handlers(model) == []
    assert wrappers(model) == []


def test_applied_twice_it_replaces(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    light = apply(host, model, 0.3)
    strong = apply(host, light, 0.8, recovery="copy")
    again = apply(host, apply(host, strong, 0.5), 0.8, recovery="copy")
    for one in (light, strong, again):
        assert len(handlers(one)) == len(wrappers(one)) == 1
    expected = sample(apply(host, model, 0.8, recovery="copy"))
    out, calls = watched_sample(again)
    assert_pruned(calls, out, 0.8)
    assert len(calls.reports) == 1
    assert torch.equal(out, expected)
    assert torch.equal(sample(strong), expected)


def test_the_model_it_was_applied_to_keeps_its_own_settings(host: InProcessHost) -> None:
    light = apply(host, shared_model("sdxl"), 0.3)
    before = sample(light)
    apply(host, light, 0.8)
    apply(host, light, 0.0)
    out, calls = watched_sample(light)
    assert_pruned(calls, out, 0.3)
    assert torch.equal(out, before)


def test_ratio_zero_takes_it_off(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    off = apply(host, apply(host, model), 0.0)
    assert handlers(off) == []
    assert torch.equal(sample(off), sample(model))
    out, calls = watched_sample(apply(host, off))
    assert_pruned(calls, out)


def test_handlers_of_other_packs_stay(host: InProcessHost) -> None:
    class Other(torch.nn.Module):
        pass

    model = shared_model("sdxl").clone()
    other = (Other, lambda *args: args[1])
    model.set_model_forward_timestep_embed_patch(other)
    patched = apply(host, apply(host, model))
    assert other in handlers(patched)
    assert len(handlers(patched)) == 2
    assert handlers(apply(host, patched, 0.0)) == [other]
    assert handlers(model) == [other]


@pytest.mark.parametrize("ratio", [-0.01, 0.951, 1.0, 63, float("nan"), float("inf")])
def test_a_ratio_out_of_range_is_refused(host: InProcessHost, ratio: float) -> None:
    with pytest.raises(ValueError, match=r"prune_ratio is .*0 to 0\.95") as refusal:
        apply(host, shared_model("sdxl"), ratio)
    assert str(ratio) in str(refusal.value)


@pytest.mark.parametrize("foreign", ["paper", 0.3, {"early_percent": 0.3}, object()])
def test_a_schedule_from_nowhere_is_refused(host: InProcessHost, foreign: Any) -> None:
    with pytest.raises(ValueError, match=r"schedule is a .*AT-EDM DSAP Schedule") as refusal:
        apply(host, shared_model("sdxl"), schedule=foreign)
    assert type(foreign).__name__ in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("selection", "best"),
        ("recovery", ""),
        ("stand_in", "random"),
        ("ranking", "both"),
        ("iterations", 0),
        ("iterations", 21),
    ],
)
def test_settings_that_are_not_offered_are_refused(host: InProcessHost, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value!r}: (choose one of|give a whole number)"):
        apply(host, shared_model("sdxl"), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("early_percent", 1.01), ("early_percent", -1.0), ("early_ratio", 0.96), ("early_blocks", "some")],
)
def test_schedules_out_of_range_are_refused(host: InProcessHost, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        schedule(host, **{name: value})


@pytest.mark.parametrize("ratio", [RATIO, 0.0])
@pytest.mark.parametrize(("kind", "got"), [("sd3", "SD3"), ("flux", "Flux"), ("svd", "video U-Net")])
def test_models_of_another_kind_are_refused(host: InProcessHost, kind: str, got: str, ratio: float) -> None:
    """The way out comes first, what was got last; and the model goes on as it was."""
    model = shared_model(kind)
    options = repr(model.model_options)
    with pytest.raises(ValueError, match=r"^Take AT-EDM Apply out of this model's path") as refusal:
        apply(host, model, ratio)
    message = str(refusal.value)
    way_out = message.partition(":")[0] if kind == "svd" else message.partition(". ")[0]
    assert "AT-EDM Auto" in way_out
    assert ("CAT Pruning Apply" in way_out) == (kind != "svd")
    assert got in message
    assert "SDXL" in message
    name = type(model.model).__name__
    assert message.index(name, message.index("This model is")) > message.index("AT-EDM Auto"), "class names come last"
    assert repr(model.model_options) == options
    assert wrappers(model) == []


def graph(kind: str = "sdxl", **inputs: Any) -> dict[str, dict[str, Any]]:
    given = {"model": ["1", 0], "prune_ratio": RATIO, **inputs}
    sampling = {"seed": 1, "steps": 1, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["2", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    return {
        "1": {"class_type": "TinyCheckpoint", "inputs": {"kind": kind, "seed": 0}},
        "2": {"class_type": "ATEDMApply", "inputs": given},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["1", 1]}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "5": {"class_type": "KSampler", "inputs": {**links, **sampling}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "applying"}},
    }


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"prune_ratio": 0.96}, "prune_ratio"),
        ({"prune_ratio": -0.1}, "prune_ratio"),
        ({"prune_ratio": "much"}, "prune_ratio"),
        ({"prune_ratio": None}, "prune_ratio"),
        ({"schedule": ["3", 0]}, "schedule"),
        ({"model": ["1", 1]}, "model"),
        ({"selection": "best"}, "selection"),
        ({"iterations": 21}, "iterations"),
    ],
)
def test_comfyui_refuses_bad_workflows_by_the_inputs_name(
    host: InProcessHost, inputs: dict[str, Any], named: str
) -> None:
    assert host.refusal(graph()) is None
    refusal = str(host.refusal(graph(**inputs)))
    assert named in refusal
    others = {"prune_ratio", "schedule", "selection", "iterations"} - {named}
    assert not [other for other in others if f"'{other}'" in refusal]


@pytest.mark.parametrize("schedule_value", ["paper", 0.3])
def test_a_schedule_typed_into_a_workflow_fails_with_a_sentence(host: InProcessHost, schedule_value: Any) -> None:
    """ComfyUI checks types of links only."""
    with pytest.raises(RuntimeError, match=r"ATEDMApply: ValueError: schedule is a .*leave the input open"):
        host.run(graph(schedule=schedule_value))


def test_a_workflow_without_optional_inputs_prunes_all_steps_alike(host: InProcessHost) -> None:
    """As exported by ComfyUI when nothing else was set."""
    assert host.refusal(graph()) is None
    assert host.run(graph()).outputs["7"]["images"]
    model = shared_model("sdxl")
    bare = host.node("ATEDMApply").execute(model, RATIO).result[0]
    flat = host.call("ATEDMApply", model=model, prune_ratio=RATIO, schedule=schedule(host, early_percent=0.0))[0]
    papers = host.call("ATEDMApply", model=model, prune_ratio=RATIO, schedule=schedule(host))[0]
    assert torch.equal(sample(bare, steps=3), sample(flat, steps=3))
    assert not torch.equal(sample(bare, steps=3), sample(papers, steps=3))


def test_the_node_can_do_exactly_the_papers_recipe(host: InProcessHost) -> None:
    """As README and help say it, and as every table means it."""
    inputs = {"ranking": "self-attention", "iterations": 10, "voters": "all", "selection": "top-k"}
    model = host.call(
        "ATEDMApply",
        model=shared_model("sdxl"),
        prune_ratio=0.63,
        schedule=host.call("ATEDMSchedule")[0],
        stand_in="attention",
        recovery="copy",
        merge="none",
        **inputs,
    )[0]
    method = host.module("patches.unet.apply").applied_method(model)
    assert method.settings == host.module("atedm_core.unet.settings").PAPER_SETTINGS
    assert set(method.schedule.level_scales) == {1.0}
    assert replace(method.schedule, level_scales=()) == host.module("atedm_core.unet.schedule").PAPER_SCHEDULE
