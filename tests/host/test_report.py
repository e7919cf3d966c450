"""AT-EDM Report: the numbers and maps are those of the run that made the result, whatever else ran or was cached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from in_process import InProcessHost, Run
from reporting import Graph, ending, executed, records, reporter, sampler, shown, text_of
from watching import apply, sample, schedule, shared_model, watched_sample


@pytest.fixture(autouse=True)
def _nothing_remembered(host: InProcessHost) -> Iterator[None]:
    host.module("patches.host.finished_runs").forget_all()
    yield
    host.module("patches.host.finished_runs").forget_all()


def graph(seed: int = 1, steps: int = 2, ratio: float = 0.63, report: str = "picture", batch: int = 1) -> Graph:
    """SDXL from a prompt to a picture, reported by its `picture` or its `latent`."""
    size = {"width": 128, "height": 64, "batch_size": batch}
    found: Graph = {
        "load": {"class_type": "TinyCheckpoint", "inputs": {"kind": "sdxl", "seed": 0}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["load", 1]}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": size},
        "schedule": {
            "class_type": "ATEDMSchedule",
            "inputs": {"early_percent": 0.0, "early_ratio": 0.0, "early_blocks": "none"},
        },
        "prune": {
            "class_type": "ATEDMApply",
            "inputs": {"model": ["load", 0], "prune_ratio": ratio, "schedule": ["schedule", 0]},
        },
        "sample": sampler(seed, steps, "prune", "empty"),
    }
    return ending(found, report)


def test_the_node_shows_chart_maps_and_text(host: InProcessHost) -> None:
    run = host.run(graph(report="picture"))
    assert len(shown(run)) == 2
    assert "AT-EDM: 37" in text_of(run)
    assert "2 steps, 1 picture, latent 16 x 8" in text_of(run)
    assert "traced" not in text_of(run)
    lines = [line for line in text_of(run).splitlines() if line.startswith("  input 4")]
    assert len(lines) == 1
    assert "8 x 4" in lines[0]
    (record,) = records(host)
    assert record.maps_asked
    assert all(place.kept_share.shape == (1, *place.grid) for place in record.places)


def test_maps_and_sums_are_what_the_blocks_did(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a count of its own, with a schedule that spares blocks early and a batch of two."""
    monkeypatch.setattr(host.module("patches.unet.apply"), "report_is_wanted", lambda: True)
    patched = apply(host, shared_model("sdxl"), schedule=schedule(host, early_percent=0.5))
    _, calls = watched_sample(patched, steps=4, batch=2)
    (record,) = records(host)
    kept: dict[str, torch.Tensor] = {}
    pruned: dict[str, int] = defaultdict(int)
    for event in calls.events():
        name, conditions = event.block.name, len(event.uuids)
        for row in range(event.subset.keep_index.shape[0]):
            mask = torch.zeros(event.subset.total)
            mask[event.subset.keep_index[row]] = 1
            counts = kept.setdefault(name, torch.zeros(2, event.subset.total))
            counts[row % 2] += mask
        pruned[name] += conditions
    assert 0 < pruned["input 4"] < pruned["input 5"]
    for place in record.places:
        spent = place.spent
        assert spent.pruned_calls == pruned[place.name]
        share = (kept[place.name] + spent.calls - spent.pruned_calls) / spent.calls
        assert torch.allclose(place.kept_share.flatten(1), share)
        assert place.kept_share.mean().item() == pytest.approx(spent.kept_share, abs=1e-6)
    early = {place.name: place.whole_because for place in record.places}
    assert "spared in the first 50%" in early["input 4"]
    assert early["input 5"] == ""
    tallies = calls.reports[0].tallies.values()
    assert record.spent.flops == sum(tally.flops for tally in tallies)


def test_without_a_report_nothing_is_recorded_on_the_device(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = host.module("patches.unet.apply").TokenMaps
    made: list[Any] = []
    monkeypatch.setattr(
        host.module("patches.unet.apply"), "TokenMaps", lambda *a: made.append(recorder(*a)) or made[-1]
    )
    host.run(graph(report=""))
    assert made == []
    assert not records(host)[0].maps_asked
    host.run(graph(report="latent"))
    assert len(made) == 1


def test_a_report_changes_no_picture(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    patched = apply(host, shared_model("sdxl"))
    expected = sample(patched)
    monkeypatch.setattr(host.module("patches.unet.apply"), "report_is_wanted", lambda: True)
    assert torch.equal(sample(patched), expected)
    assert [record.maps_asked for record in records(host)] == [False, True]


def test_runs_do_not_mix(host: InProcessHost) -> None:
    """One model in two samplers one after the other, and a second model with a third; each has its own report."""
    both = graph(steps=2, report="picture")
    upscale = {"width": 192, "height": 96, "upscale_method": "nearest-exact", "crop": "disabled"}
    both["larger"] = {"class_type": "LatentUpscale", "inputs": {"samples": ["sample", 0], **upscale}}
    both["again"] = sampler(2, 4, "prune", "larger", denoise=0.75)
    both["second"] = reporter("prune", "again")
    both["other"] = {"class_type": "ATEDMApply", "inputs": {"model": ["load", 0], "prune_ratio": 0.4}}
    both["third"] = sampler(3, 5, "other", "empty")
    both["third report"] = reporter("other", "third")
    both["wrong"] = reporter("other", "sample")
    run = host.run(both)
    assert "2 steps, 1 picture, latent 16 x 8" in text_of(run)
    assert "4 steps, 1 picture, latent 24 x 12" in text_of(run, "second")
    assert "5 steps" in text_of(run, "third report")
    assert "prune_ratio 0.4" in text_of(run, "third report")
    assert all("traced" not in text_of(run, node) for node in ("report", "second", "third report"))
    # a result of another model is not passed off as this one's
    assert "could not be traced" in text_of(run, "wrong")


def test_a_cached_run_reports_what_it_did(host: InProcessHost) -> None:
    executor = host.executor(cached_results=100)
    host.run(graph(seed=1, steps=2, report=""), executor)
    host.run(graph(seed=2, steps=3, report=""), executor)
    later = host.run(graph(seed=1, steps=2, report="picture"), executor)
    assert "sample" not in executed(later)
    assert "2 steps" in text_of(later)
    assert "AT-EDM: 37" in text_of(later)
    again = host.run(graph(seed=1, steps=2, report="picture"), executor)
    assert executed(again) == set()
    assert text_of(again) == text_of(later)
    assert shown(again) == shown(later)


def test_a_result_from_elsewhere_gets_the_last_run_and_says_so(host: InProcessHost) -> None:
    found = graph(report="latent")
    found["report"] = reporter("prune", "empty")
    executor = host.executor()
    host.run(graph(report=""), executor)
    text = text_of(host.run(found, executor))
    assert "2 steps" in text
    assert "could not be traced" in text


def test_ratio_zero_is_reported_and_compared_with(host: InProcessHost) -> None:
    executor = host.executor()
    whole = text_of(host.run(graph(ratio=0.0, steps=3), executor))
    assert "nothing was left out" in whole
    assert "input 4: prune_ratio is 0" in whole
    for seed in (2, 3):
        host.run(graph(ratio=0.0, steps=3, seed=seed), executor)
    for seed in (1, 2):
        assert "not enough runs to say" in text_of(host.run(graph(ratio=0.63, steps=3, seed=seed), executor))
    text = text_of(host.run(graph(ratio=0.63, steps=3, seed=3), executor))
    assert "3 runs and 3 with prune_ratio 0" in text
    assert "x measured" in text
    assert "x measured" not in text_of(host.run(graph(ratio=0.62, steps=3), executor)), "other settings"
    assert "x measured" not in text_of(host.run(graph(ratio=0.63, steps=4), executor)), "other steps"
    for name, value in (("cfg", 1.0), ("sampler_name", "heun")):  # half the work, and two calls a step
        other = graph(ratio=0.63, steps=3)
        other["sample"]["inputs"][name] = value
        assert "x measured" not in text_of(host.run(other, executor)), name


def test_forecasts_beside_pruning_are_other_work(host: InProcessHost) -> None:
    """What another of the pack's nodes on the model is set to decides the time of a step too."""
    executor = host.executor()
    for ratio, compute in ((0.0, 1.0), (0.63, 0.6)):
        for seed in (1, 2, 3):
            both = graph(ratio=ratio, steps=8, seed=seed)
            both["forecast"] = {
                "class_type": "StepForecastApply",
                "inputs": {"model": ["prune", 0], "compute": compute},
            }
            both["sample"]["inputs"]["model"] = ["forecast", 0]
            text = text_of(host.run(both, executor))
    assert "not enough runs to say" in text


def test_forecasts_and_pruning_on_one_model_are_one_report(host: InProcessHost) -> None:
    both = graph(steps=10)
    both["forecast"] = {"class_type": "StepForecastApply", "inputs": {"model": ["prune", 0], "compute": 0.6}}
    both["sample"]["inputs"]["model"] = both["report"]["inputs"]["model"] = ["forecast", 0]
    run = host.run(both)
    assert "AT-EDM and Step Forecast" in text_of(run)
    assert "of 10 evaluations" in text_of(run)
    assert "tokens kept" in text_of(run)
    assert "traced" not in text_of(run)


def test_the_distance_from_the_full_models_picture_is_measured(host: InProcessHost) -> None:
    found = graph(steps=3)
    found["off"] = {"class_type": "ATEDMApply", "inputs": {"model": ["load", 0], "prune_ratio": 0.0}}
    found["whole"], found["fewer"] = sampler(1, 3, "off", "empty"), sampler(1, 2, "off", "empty")
    for name in ("whole", "fewer"):
        found[f"{name} picture"] = {"class_type": "VAEDecode", "inputs": {"samples": [name, 0], "vae": ["load", 2]}}
    found["report"]["inputs"] |= {"reference": ["whole picture", 0], "alternative": ["fewer picture", 0]}
    run = host.run(found)
    (panel,) = run.outputs["report"]["atedm_report"]
    assert set(panel["distances"]) == {"result", "alternative"}
    assert "result: PSNR" in text_of(run)
    assert "alternative: PSNR" in text_of(run)
    found["report"]["inputs"]["result"] = ["whole picture", 0]
    (same,) = host.run(found).outputs["report"]["atedm_report"]
    assert same["distances"]["result"]["ssim"] == pytest.approx(1.0)


def test_the_flops_include_choosing_the_tokens(host: InProcessHost) -> None:
    """Dearer rankings save less, and what was planned agrees with what was done."""
    saved = {}
    for ranking, voters in (("none", "lattice"), ("redundancy", "lattice"), ("self-attention", "all")):
        sample(apply(host, shared_model("sdxl"), ranking=ranking, voters=voters, stand_in="grid"), steps=2)
        record = records(host)[-1]
        saved[ranking] = record.spent.saved_share
        assert record.planned == pytest.approx(record.spent.saved_share, abs=0.02)
    assert saved["none"] > saved["redundancy"] > saved["self-attention"]


def test_a_model_that_is_not_pruned_is_told_so(host: InProcessHost) -> None:
    found = graph(report="latent")
    found["report"]["inputs"]["model"] = ["load", 0]
    run = host.run(found)
    assert text_of(run).startswith("Nothing was done to this model")
    assert len(shown(run)) == 1


def test_a_model_that_was_not_sampled_is_told_so(host: InProcessHost) -> None:
    maps, chart, text = host.call(
        "ATEDMReport", model=apply(host, shared_model("sdxl")), result={"samples": torch.zeros(1)}
    )
    assert text.startswith("No finished run")
    assert maps.ndim == chart.ndim == 4


def test_an_interrupted_run_is_not_reported(host: InProcessHost) -> None:
    patched = apply(host, shared_model("sdxl"))

    class StoppedError(Exception):
        pass

    class Stopping:
        def pruned(self, event: Any) -> None:
            raise StoppedError

        def finished(self, run: Any, steps: int) -> None:
            pass

    stopping = patched.clone()
    stopping.model_options["transformer_options"]["atedm_observers"] = [Stopping()]
    with pytest.raises(StoppedError):
        sample(stopping)
    assert records(host) == []


def test_a_clone_of_the_model_is_the_same_model(host: InProcessHost) -> None:
    """LoRA, FreeU and the like clone what comes out of AT-EDM Apply; either end may go into the report."""
    patched = apply(host, shared_model("sdxl"))
    latent = sample(patched.clone(), steps=3)
    for model in (patched, patched.clone()):
        assert "3 steps" in host.call("ATEDMReport", model=model, result={"samples": latent})[2]


def test_equal_settings_on_another_model_are_another_models_runs(host: InProcessHost) -> None:
    latent = sample(apply(host, shared_model("sdxl")))
    other = apply(host, shared_model("sdxl"))
    assert "No finished run" in host.call("ATEDMReport", model=other, result={"samples": latent})[2]


def test_few_runs_are_kept(host: InProcessHost) -> None:
    runs = host.module("patches.host.finished_runs")
    patched = apply(host, shared_model("sdxl"))
    sample(patched)
    (run,) = runs._finished
    for _ in range(3 * runs.MOST):
        runs.keep_record(run.method, run.record)
    assert len(runs._finished) == runs.MOST


def test_pictures_of_old_reports_are_removed_and_nothing_else(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = host.module("patches.host.shown_files")
    monkeypatch.setattr(files, "MOST_REPORTS", 2)

    def there(run: Run) -> list[bool]:
        (panel,) = run.outputs["report"]["atedm_report"]
        pictures = [*panel["light"], *panel["dark"], *run.outputs["save"]["images"]]
        return [(Path(folder_paths.get_temp_directory()) / one["filename"]).is_file() for one in pictures]

    files._files.clear()
    runs = [host.run(graph(seed)) for seed in range(3)]
    assert all(there(runs[1]) + there(runs[2]))
    *reports, picture = there(runs[0])
    assert picture
    assert reports
    assert not any(reports)


def test_every_picture_of_a_small_batch_has_its_sheet(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.module("patches.unet.apply"), "report_is_wanted", lambda: True)
    patched = apply(host, shared_model("sdxl"))
    latent = sample(patched, steps=1, batch=5)
    maps, chart, text = host.call("ATEDMReport", model=patched, result={"samples": latent})
    assert maps.shape[0] == 4
    assert chart.shape[0] == 1
    assert "token maps are recorded for the first 4 pictures" in text
    for sheet in (maps, chart):
        assert sheet.dtype == torch.float32
        assert sheet.shape[-1] == 3
        assert 0.0 <= sheet.min() < sheet.max() <= 1.0
    assert not torch.equal(maps[0], maps[1])


def test_calls_on_parts_of_the_picture_are_left_out_of_the_maps(host: InProcessHost) -> None:
    patched = apply(host, shared_model("sdxl"))
    _, calls = watched_sample(patched, steps=1)
    event = calls.events()[0]
    method = host.module("patches.unet.apply").applied_method(patched)
    maps = host.module("patches.unet.token_maps").TokenMaps(method.structure, (32, 16))
    maps.add(event.block, event.grid, event.subset, len(event.uuids))
    assert maps.parts == 1
    assert maps.shares(event.block, 0) is None


@pytest.mark.parametrize(("interval", "inside", "start"), [(1, 3, 0), (3, 1, 2)])
def test_the_report_says_where_tokens_were_dropped(
    host: InProcessHost, caplog: pytest.LogCaptureFixture, interval: int, inside: int, start: int
) -> None:
    inputs = {"prune_from": "block start", "ranking": "self-attention", "rank_interval": interval}
    patched = apply(host, shared_model("sdxl"), **inputs)
    warned = [entry.message for entry in caplog.records if "Raise rank_interval above 1" in entry.message]
    assert len(warned) == (interval == 1)
    latent = sample(patched, steps=3, cfg=1.0)
    text = host.call("ATEDMReport", model=patched, result={"samples": latent})[2]
    line = next(line for line in text.splitlines() if line.startswith("dropped"))
    assert f"inside first layer: {11 * inside} block calls" in line
    assert (f"block start: {11 * start} block calls" in line) == (start > 0)


def test_a_report_that_cannot_be_made_costs_no_picture(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    patched = apply(host, shared_model("sdxl"))
    expected = sample(patched)

    def fail(*_: Any) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(host.module("patches.host.run_scope"), "keep_record", fail)
    assert torch.equal(sample(patched), expected)
    assert any("the result stands" in entry.message for entry in caplog.records)


def test_a_workflow_deeper_than_the_stack_has_its_report(host: InProcessHost) -> None:
    """Plain ComfyUI runs it; at about 900 nodes its own checks give up."""
    found = graph()
    found["n0"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}}
    depth = 650
    for number in range(1, depth):
        found[f"n{number}"] = {
            "class_type": "LatentMultiply",
            "inputs": {"samples": [f"n{number - 1}", 0], "multiplier": 1.0},
        }
    found["sample"]["inputs"]["latent_image"] = [f"n{depth - 1}", 0]
    assert "2 steps, 1 picture" in text_of(host.run(found))


def test_a_signature_follows_every_dependency(host: InProcessHost) -> None:
    sign = host.module("patches.host.workflow").signature
    diamond = {
        "a": {"class_type": "A", "inputs": {"value": 1}},
        "b": {"class_type": "B", "inputs": {"x": ["a", 0]}},
        "c": {"class_type": "C", "inputs": {"x": ["a", 1], "y": ["b", 0]}},
        "d": {"class_type": "D", "inputs": {"x": ["b", 0], "y": ["c", 0]}},
    }
    first = sign(diamond, "d")
    assert first == sign(dict(reversed(diamond.items())), "d")
    for change in ({"value": 2}, {"value": ["c", 0]}):
        assert sign({**diamond, "a": {"class_type": "A", "inputs": change}}, "d") != first
