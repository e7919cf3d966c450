from __future__ import annotations

import argparse
import functools
import itertools

import pytest
import torch
from benchmarks.pack.atedm_core.unet.schedule import DEFAULT_RATIO
from benchmarks.pack.atedm_core.unet.settings import PRUNE_POINTS

from benchmarks import host, random_models
from benchmarks.measure import interleave, peak_tensor_bytes
from benchmarks.printing import markdown
from benchmarks.speed import contenders, overhead, tables
from benchmarks.speed.contenders import ideal_speed_up, peers, pruned, stacked, unpruned
from benchmarks.speed.overhead import OperationCounter, Stopwatch

CPU = torch.device("cpu")


def test_a_disturbed_round_does_not_move_the_ratio(monkeypatch):
    durations = itertools.cycle([2.0, 1.0] * 3 + [20.0, 10.0])
    monkeypatch.setattr("benchmarks.measure.seconds", lambda work, device: next(durations))
    pair = interleave(lambda: None, lambda: None, 5, CPU)
    assert (pair.a, pair.b, pair.ratio) == (2.0, 1.0, 2.0)


def test_operations_are_counted_and_views_are_not():
    x = torch.ones(4, 4)
    with OperationCounter() as counter:
        (x.view(16) + 1).sum()
    assert counter.operations == 2


def test_tensors_alive_at_once_are_counted_and_views_and_what_is_gone_are_not():
    def work():
        first = torch.empty(1000)
        first = first.view(10, 100) * 2.0  # the one before goes once this is there
        return first.view(-1)[:10].clone()

    assert peak_tensor_bytes(work, CPU) == 2 * 4000


def test_a_part_inside_another_counts_once():
    stopwatch = Stopwatch(CPU)
    inner = stopwatch.watched("gather", lambda: None)
    stopwatch.watched("fill in", inner)()
    assert stopwatch.blocks == 1
    assert stopwatch.seconds()["fill in"] > 0
    assert stopwatch.seconds()["gather"] == 0


def test_every_peer_and_every_stack_has_an_effect(comfyui):
    model = host.random_model("sdxl", torch.float32, tiny=True)

    @functools.cache
    def picture(which, steps):
        return host.sample_latent(which, (512, 512), steps, 1.0, CPU)[0]

    for contender in [*peers(model), *stacked(model, 0.63), *pruned(model, 0.63)]:
        steps = 6 if "Cache" in contender.name else 2
        assert not torch.equal(picture(contender.model, steps), picture(model, steps)), f"{contender.name} does nothing"


def test_a_ranking_by_attention_is_timed_too(comfyui, monkeypatch):
    by_attention = functools.partial(contenders.PruneSettings, ranking="self-attention")
    monkeypatch.setattr(contenders, "PruneSettings", by_attention)
    model = host.random_model("sdxl", torch.float32, tiny=True)
    options = argparse.Namespace(ratio=0.63, cfg=1.0, rounds=1)
    row = overhead.measure(model, "after first layer", 128, options, CPU)
    assert row["shares"]["rank"] > 0
    assert row["operations_per_block"]["rank"] > 0


def test_ideal_speed_ups_of_sdxl_are_those_of_the_defaults(comfyui, monkeypatch):
    import comfy.model_management

    # 10 GB of weights that nobody reads
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("meta"))
    model = random_models.sdxl((2, 10), 320)
    assert all(weight.is_meta for weight in model.model.diffusion_model.parameters())
    found = [ideal_speed_up(model, (1024, 1024), DEFAULT_RATIO, point) for point in PRUNE_POINTS]
    assert found == pytest.approx([1.54, 1.61, 1.64], abs=0.006)


def test_documents_agree_with_the_results():
    for path in tables.DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert tables.renewed(text) == text, f"{path.name} is behind: run `python dev.py bench tables`"


def test_a_table_that_nobody_makes_is_named():
    with pytest.raises(SystemExit, match="no table is called 'nonsense'"):
        tables.renewed("<!-- table: nonsense -->\n<!-- end of table -->")


def test_a_row_that_does_not_fit_its_table_is_refused():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    with pytest.raises(ValueError, match=r"2 columns \['a', 'b'\], but a row of 3 cells"):
        markdown(["a", "b"], [["1", "2", "3"]])


def test_pruning_adds_nothing_to_peak_memory(comfyui):
    model = random_models.sdxl((2, 2), 128)

    def peak(contender) -> int:
        def run() -> None:
            host.sample_latent(contender.model, (256, 256), 1, 1.0, CPU)

        run()  # loads the weights and tries the kernels
        return peak_tensor_bytes(run, CPU)

    [contender] = pruned(model, 0.63, ["after first layer"])
    # The scores are there while the feed-forward runs; queries and keys would be a tenth of the peak.
    assert peak(contender) <= 1.005 * peak(unpruned(model))
