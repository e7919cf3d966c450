"""AT-EDM Report on a model under CAT Pruning: what every step computed, for the run that made the result."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cat_watching import SIZE, TOKENS, WARMUP, cat, dual_guider, guided_sample, watched
from in_process import InProcessHost
from reporting import Graph, ending, executed, records, reporter, sampler, shown, text_of
from sample_transformers import sample, shared
from watching import apply, shared_model
from watching import sample as sample_unet

PROMPTS = ("text", "against")
STEPS = 8
KEEP = int(0.3 * TOKENS)
OF_THE_OTHER = re.compile(r"AT-EDM|prune_ratio|attention block|\bblocks?\b", re.IGNORECASE)
OF_THIS = re.compile(r"CAT Pruning|keep_ratio|keys and values|\bstep \d", re.IGNORECASE)


@pytest.fixture(autouse=True)
def _nothing_remembered(host: InProcessHost) -> Iterator[None]:
    host.module("patches.host.finished_runs").forget_all()
    yield
    host.module("patches.host.finished_runs").forget_all()


@pytest.fixture
def _report_wanted(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.module("patches.dit.apply"), "report_is_wanted", lambda: True)


def graph(kind: str = "sd3", *, seed: int = 1, steps: int = STEPS, keep: float = 0.3, report: str = "picture") -> Graph:
    """From a prompt to a picture, reported by its `picture` or its `latent`."""
    empty = {"sd3": "EmptySD3LatentImage", "pixart": "EmptyLatentImage"}[kind]
    found: Graph = {
        "load": {"class_type": "TinyCheckpoint", "inputs": {"kind": kind, "seed": 0}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat on a mat", "clip": ["load", 1]}},
        "against": {"class_type": "CLIPTextEncode", "inputs": {"text": "dull", "clip": ["load", 1]}},
        "empty": {"class_type": empty, "inputs": {"width": 384, "height": 288, "batch_size": 1}},
        "prune": pruner(keep),
        "sample": sampler(seed, steps, "prune", "empty", prompts=PROMPTS),
    }
    return ending(found, report)


def pruner(keep: float) -> dict[str, Any]:
    how = {"keep_ratio": keep, "warmup": 0.0, "least_full_steps": WARMUP, "refresh_interval": 0}
    return {"class_type": "CATPruningApply", "inputs": {"model": ["load", 0], **how}}


def report(host: InProcessHost, model: Any, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, str]:
    return host.call("ATEDMReport", model=model, result={"samples": samples})  # type: ignore[return-value]


def steps_of(host: InProcessHost) -> dict[str, Any]:
    (record,) = records(host)
    return {place.name: place for place in record.places}


@pytest.mark.parametrize("kind", ["sd3", "pixart"])
def test_the_node_shows_chart_maps_and_text(host: InProcessHost, kind: str) -> None:
    run = host.run(graph(kind))
    assert len(shown(run)) == 2
    text = text_of(run)
    (record,) = records(host)
    spent = record.spent
    assert text.startswith(f"CAT Pruning: {spent.kept_share:.1%} of tokens computed, {spent.saved_share:.1%} of the")
    assert 0.3 < spent.saved_share < 0.5
    assert "8 steps, 1 picture, latent 48 x 36, 8 model calls for each of 2 conditions" in text
    assert "5 of 8 to be pruned to 129 of 432 tokens, 3 in full to warm up" in text
    assert f"{record.model_saved_share:.1%} saved, {record.planned:.1%} planned" in text
    assert "MiB of keys and values held at most" in text
    assert re.search(r"step 1 to 3 +24 x 18 +100\.0%.*3 of 3 calls: to warm up", text)
    assert re.search(r"step 4 to 8 +24 x 18 +29\.9%", text)
    assert "traced" not in text
    assert not OF_THE_OTHER.search(text)


def test_planned_and_actual_agree_where_nothing_stands_against_pruning(host: InProcessHost) -> None:
    sample(cat(host, shared("sd3")), "sd3", width=SIZE, height=SIZE)
    (record,) = records(host)
    assert record.planned == pytest.approx(record.spent.saved_share)
    assert record.conditions == 2
    assert record.calls == 2 * STEPS


@pytest.mark.usefixtures("_report_wanted")
@pytest.mark.parametrize("sampler_name", ["euler", "heun", "dpmpp_sde"])
def test_maps_are_the_sets_that_were_computed(host: InProcessHost, sampler_name: str) -> None:
    """Against a count of its own: a batch of three, one to two calls a step, a refresh in between."""
    model = cat(host, shared("sd3"), refresh_interval=3)
    _, calls = watched(host, model, "sd3", batch=3, sampler=sampler_name)
    cat_schedule = host.module("atedm_core.dit.schedule")
    counts: dict[int, list[torch.Tensor]] = defaultdict(list)
    for call in calls:
        computed = torch.ones(3, TOKENS) if call.selected is None else torch.zeros(3, TOKENS)
        if call.selected is not None:
            computed.scatter_(1, call.selected[:3], 1.0)
        counts[cat_schedule.step_at(call.sigma, calls.sigmas)].append(computed)
    places = steps_of(host)
    assert len(places) == STEPS
    assert len({place.kept_share is None for place in places.values()}) == 2
    for step, computed in counts.items():
        place = places[f"step {step + 1}"]
        share = torch.stack(computed).mean(dim=0)
        if place.kept_share is None:
            assert bool((share == 1).all())
        else:
            assert place.kept_share.shape == (3, 17, 17)
            assert torch.allclose(place.kept_share.flatten(1).float(), share, atol=1e-3)
            assert not torch.equal(place.kept_share[0], place.kept_share[1])
        assert place.spent.kept_share == pytest.approx(float(share.mean()))
    assert places["step 7"].whole_because == "to refresh"


def test_without_a_report_nothing_is_counted_on_the_device(host: InProcessHost) -> None:
    counting = host.module("patches.dit.apply").KeptCounts
    made: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host.module("patches.dit.apply"), "KeptCounts", lambda: made.append(counting()) or made[-1])
        without = host.run(graph(report=""))
        assert made == []
        assert not records(host)[0].maps_asked
        host.run(graph(report="latent"))
    assert "report" not in without.outputs
    assert len(made) == 1
    assert [record.maps_asked for record in records(host)] == [False, True]


@pytest.mark.usefixtures("_report_wanted")
def test_a_report_changes_no_picture(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    patched = cat(host, shared("sd3"))
    recorded = sample(patched, "sd3")
    monkeypatch.setattr(host.module("patches.dit.apply"), "report_is_wanted", lambda: False)
    assert torch.equal(sample(patched, "sd3"), recorded)


def test_runs_do_not_mix(host: InProcessHost) -> None:
    """One model in two samplers one after the other, and a second model with a third; each has its own report."""
    both = graph(steps=6)
    upscale = {"width": 480, "height": 288, "upscale_method": "nearest-exact", "crop": "disabled"}
    both["larger"] = {"class_type": "LatentUpscale", "inputs": {"samples": ["sample", 0], **upscale}}
    both["again"] = sampler(2, 9, "prune", "larger", 0.75, PROMPTS)
    both["second"] = reporter("prune", "again")
    both["other"] = pruner(0.5)
    both["third"] = sampler(3, 7, "other", "empty", prompts=PROMPTS)
    both["third report"] = reporter("other", "third")
    both["wrong"] = reporter("other", "sample")
    run = host.run(both)
    assert "6 steps, 1 picture, latent 48 x 36" in text_of(run)
    assert "9 steps, 1 picture, latent 60 x 36" in text_of(run, "second")
    assert "7 steps" in text_of(run, "third report")
    assert "keep_ratio 0.5" in text_of(run, "third report")
    assert all("traced" not in text_of(run, node) for node in ("report", "second", "third report"))
    # a result of another model is not passed off as this one's; which of the two it says is a matter of order
    assert "could not be traced" in text_of(run, "wrong") or "No finished run" in text_of(run, "wrong")
    assert "6 steps" not in text_of(run, "wrong")


def test_both_methods_in_one_workflow_have_their_own_words(host: InProcessHost) -> None:
    both = graph(steps=6)
    both["load unet"] = {"class_type": "TinyCheckpoint", "inputs": {"kind": "sdxl", "seed": 0}}
    both["prune unet"] = {"class_type": "ATEDMApply", "inputs": {"model": ["load unet", 0], "prune_ratio": 0.63}}
    text = {"text": "a cat", "clip": ["load unet", 1]}
    both["text unet"] = {"class_type": "CLIPTextEncode", "inputs": text}
    both["empty unet"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 64, "batch_size": 1}}
    both["sample unet"] = sampler(1, 4, "prune unet", "empty unet", prompts=("text unet", "text unet"))
    both["report unet"] = reporter("prune unet", "sample unet")
    run = host.run(both)
    assert text_of(run).startswith("CAT Pruning")
    assert not OF_THE_OTHER.search(text_of(run))
    assert text_of(run, "report unet").startswith("AT-EDM")
    assert not OF_THIS.search(text_of(run, "report unet"))


@pytest.mark.parametrize("method", ["CAT Pruning", "AT-EDM"])
def test_pictures_speak_of_their_own_method_only(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    words: list[str] = []
    sheet = host.module("report.canvas").Sheet
    draw = sheet.text

    def written(self: Any, at: Any, text: str, *args: Any, **kwargs: Any) -> None:
        words.append(text)
        draw(self, at, text, *args, **kwargs)

    monkeypatch.setattr(sheet, "text", written)
    for module in ("patches.dit.apply", "patches.unet.apply"):
        monkeypatch.setattr(host.module(module), "report_is_wanted", lambda: True)
    if method == "AT-EDM":
        model = apply(host, shared_model("sdxl"))
        report(host, model, sample_unet(model))
    else:
        model = cat(host, shared("sd3"))
        report(host, model, sample(model, "sd3"))
    said = " | ".join(words)
    assert f"{method}: what this run did" in said
    assert f"{method} · " in said
    assert not (OF_THIS if method == "AT-EDM" else OF_THE_OTHER).search(said)


def test_a_cached_run_reports_what_it_did(host: InProcessHost) -> None:
    executor = host.executor(cached_results=100)
    host.run(graph(seed=1, steps=6, report=""), executor)
    host.run(graph(seed=2, steps=7, report=""), executor)
    later = host.run(graph(seed=1, steps=6), executor)
    assert "sample" not in executed(later)
    assert "6 steps" in text_of(later)
    again = host.run(graph(seed=1, steps=6), executor)
    assert text_of(again) == text_of(later)


def test_keeping_everything_is_reported_and_compared_with(host: InProcessHost) -> None:
    executor = host.executor()
    whole = host.run(graph(keep=1.0), executor)
    assert "nothing was pruned: keep_ratio 1 keeps all 432 tokens" in text_of(whole)
    assert shown(whole) == []
    assert whole.outputs["report"]["atedm_report"][0]["why"]["key"] == "keep_ratio_off"
    for seed in (2, 3):
        host.run(graph(keep=1.0, seed=seed), executor)
        host.run(graph(keep=0.3, seed=seed), executor)
    assert "3 runs and 3 with keep_ratio 1" in text_of(host.run(graph(keep=0.3), executor))
    assert "x measured" not in text_of(host.run(graph(keep=0.3, steps=6), executor))
    two_calls_a_step = graph(keep=0.3)
    two_calls_a_step["sample"]["inputs"]["sampler_name"] = "heun"
    assert "x measured" not in text_of(host.run(two_calls_a_step, executor))


def test_too_few_steps_are_reported(host: InProcessHost) -> None:
    model = cat(host, shared("sd3"))
    maps, chart, text = report(host, model, sample(model, "sd3", steps=3))
    assert "all 3 steps of this run are full" in text
    assert maps.ndim == chart.ndim == 4


@pytest.mark.usefixtures("_report_wanted")
def test_what_kept_a_run_from_being_pruned_is_reported(host: InProcessHost) -> None:
    """A block patch of another node for the whole run: every step says so."""
    model = shared("sd3").clone()
    model.set_model_patch(lambda *args: args[0], "double_block")
    patched = cat(host, model)
    maps, _, text = report(host, patched, sample(patched, "sd3"))
    assert "nothing was left out, the model ran as it is" in text
    assert "changes the model's blocks" in text
    assert re.search(r"step 1 to 8 .* 8 of 8 calls: .* changes the model's blocks", text)
    assert maps.shape[0] == 1


def test_memory_that_does_not_suffice_is_reported(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management

    model = cat(host, shared("sd3"))
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *args, **kwargs: 1000)
    _, _, text = report(host, model, sample(model, "sd3"))
    assert "from some step on nothing was pruned, because keys and values take" in text
    assert "0 MiB of keys and values" in text


def test_steps_that_another_node_answered_are_reported(host: InProcessHost) -> None:
    model = cat(host, shared("sd3"))
    cached = host.call(
        "LazyCache", model=model, reuse_threshold=0.5, start_percent=0.0, end_percent=1.0, verbose=False
    )[0]
    _, _, text = report(host, model, sample(cached, "sd3", steps=14))
    assert "the model was not asked" in text


def test_calls_that_ran_in_full_beside_pruned_ones_are_reported(host: InProcessHost) -> None:
    """Skip-layer guidance asks for the positive prompt once more, with a layer left out."""
    model = cat(host, shared("sd3"))
    guided = host.call("SkipLayerGuidanceSD3", model=model, layers="1", scale=3.0, start_percent=0.0, end_percent=1.0)
    _, _, text = report(host, model, sample(guided[0], "sd3"))
    # five steps of one call for both conditions and one for the positive prompt alone, by condition
    assert re.search(r"step 4 to 8 .* 2\.5 of 7\.5 calls: another node asked for the same condition again", text)
    assert re.search(r"step 1 to 3 .* 4\.5 of 4\.5 calls: to warm up, another node asked", text)


def test_an_interrupted_run_is_not_reported(host: InProcessHost) -> None:
    model = cat(host, shared("sd3"))

    def stop(args: Any) -> Any:
        raise RuntimeError("stopped")

    model.set_model_sampler_post_cfg_function(stop)
    with pytest.raises(RuntimeError, match="stopped"):
        sample(model, "sd3")
    assert records(host) == []


@pytest.mark.usefixtures("_report_wanted")
def test_every_picture_of_a_batch_has_its_sheet_and_odd_sizes_fit(host: InProcessHost) -> None:
    model = cat(host, shared("sd3"))
    out = sample(model, "sd3", width=280, height=264, batch=5)
    maps, chart, text = report(host, model, out)
    assert maps.shape[0] == 4
    assert "token maps are recorded for the first 4 pictures" in text
    for sheet in (maps, chart):
        assert sheet.dtype == torch.float32
        assert 0.0 <= sheet.min() < sheet.max() <= 1.0
    assert not torch.equal(maps[0], maps[1])


@pytest.mark.usefixtures("_report_wanted")
def test_a_latent_with_frames_is_mapped(host: InProcessHost) -> None:
    model = cat(host, shared("qwen_image"))
    out = sample(model, "qwen_image", width=SIZE, height=SIZE)
    assert out.ndim == 5
    maps, _, text = report(host, model, out)
    assert f"{KEEP} of {TOKENS} tokens" in text
    assert maps.shape[0] == 1


@pytest.mark.usefixtures("_report_wanted")
def test_long_runs_have_a_sheet_of_bounded_size(host: InProcessHost) -> None:
    model = cat(host, shared("sd3"))
    short = report(host, model, sample(model, "sd3", steps=51))[0]
    long = report(host, model, sample(model, "sd3", steps=99))[0]
    assert long.shape == short.shape


def test_equal_settings_on_another_model_are_another_models_runs(host: InProcessHost) -> None:
    out = sample(cat(host, shared("sd3")), "sd3")
    assert "No finished run" in report(host, cat(host, shared("sd3")), out)[2]


def test_a_clone_of_the_model_is_the_same_model(host: InProcessHost) -> None:
    model = cat(host, shared("sd3"))
    out = sample(model.clone(), "sd3", steps=6)
    assert "6 steps" in report(host, model.clone(), out)[2]


def test_a_guider_of_three_conditions_is_reported(host: InProcessHost) -> None:
    model = cat(host, shared("sd3"))
    out = guided_sample(host, dual_guider(host, model))
    assert "8 model calls for each of 3 conditions" in report(host, model, out)[2]


def test_a_unet_is_reported_in_its_own_words(host: InProcessHost) -> None:
    model = apply(host, shared_model("sdxl"))
    text = report(host, model, sample_unet(model))[2]
    assert text.startswith("AT-EDM: 37.5% of tokens kept")
    assert "attention blocks " in text
    assert "with prune_ratio 0" in text
    assert not OF_THIS.search(text)
