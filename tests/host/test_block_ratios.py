"""On a model with one deep level, as SDXL is, blocks share the ratio by what their errors cost the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from in_process import InProcessHost
from reporting import records
from watching import RATIO, Calls, apply, layer_tokens, sample, schedule, shared_model, watched_sample

KIND = "deep sdxl"
QUARTER = ("input 7", "input 8", "middle 0", "output 0", "output 1", "output 2")
HALF = ("input 4", "input 5", "output 3", "output 4", "output 5")
TOKENS = 64  # of the quarter level of the pictures here


def defaults(host: InProcessHost, ratio: float) -> Any:
    """As the node stands in the graph, with nothing connected but the model."""
    return host.call("ATEDMApply", model=shared_model(KIND), prune_ratio=ratio)[0]


def ratios(host: InProcessHost, mean: float) -> Mapping[str, float]:
    """By hand: a common ratio less 0.9, 0.48 and 0.06 in the last three blocks, the mean of the six as given."""
    if mean == 0.66:
        return dict(zip(QUARTER, (0.9, 0.9, 0.9, 0.84, 0.42, 0.0), strict=True))
    common = (6 * mean + 0.06 + 0.48) / 5  # below 0.9, the last block is whole
    assert common < 0.9
    return dict(zip(QUARTER, (common, common, common, common - 0.06, common - 0.48, 0.0), strict=True))


def kept(calls: Calls) -> dict[str, set[int]]:
    """How many tokens each block kept, in any call."""
    found: dict[str, set[int]] = {}
    for event in calls.events():
        assert event.subset.total == TOKENS
        found.setdefault(event.block.name, set()).add(event.subset.kept)
    return found


@pytest.mark.parametrize("mean", [0.66, 0.6])
def test_every_block_drops_its_own_share_and_the_last_none(host: InProcessHost, mean: float) -> None:
    size = {"width": 256, "height": 256}
    _, calls = watched_sample(defaults(host, mean), KIND, steps=3, **size)
    wanted = ratios(host, mean)
    found = kept(calls)
    assert set(found) == {name for name in QUARTER if wanted[name] > 0}
    for name, numbers in found.items():
        (number,) = numbers
        assert number == pytest.approx(TOKENS * (1 - wanted[name]), abs=0.51), name
    assert all(call.pruned() == set(found) for call in calls), "all steps alike"
    with layer_tokens(shared_model(KIND)) as seen:
        sample(defaults(host, mean), KIND, steps=1, **size)
    for (part, index, layer), passes in seen.items():
        name, quarter = f"{part} {index}", f"{part} {index}" in QUARTER
        inner = next(iter(found[name])) if name in found and layer > 0 else TOKENS if quarter else 4 * TOKENS
        assert {one["ff"] for one in passes} == {inner}, (name, layer)


def test_the_record_says_why_a_block_is_whole_and_the_plan_what_is_saved(host: InProcessHost) -> None:
    sample(defaults(host, 0.66), KIND, width=256, height=256, steps=3)
    record = records(host)[-1]
    why = {place.name: place.whole_because for place in record.places}
    assert why == {
        **dict.fromkeys(HALF, "half_level is 0"),
        **dict.fromkeys(QUARTER[:-1], ""),
        QUARTER[-1]: "spared: its errors cost most",
    }
    assert record.spent.saved_share == pytest.approx(record.planned, abs=2e-4)
    assert record.spent.saved_share > 0.3


def test_a_block_that_does_not_pay_stays_whole_and_the_record_says_why(host: InProcessHost) -> None:
    sample(defaults(host, 0.05), KIND, width=256, height=256, steps=2)
    record = records(host)[-1]
    why = {place.name: place.whole_because for place in record.places}
    spared = {name for name, said in why.items() if said == "choosing tokens would take most of what that saves"}
    assert spared
    assert spared <= set(QUARTER)
    assert record.spent.saved_share == pytest.approx(record.planned, abs=2e-4)
    assert record.spent.saved_share >= 0


def test_the_budget_plans_the_same_shares(host: InProcessHost) -> None:
    size = {"width": 256, "height": 256}
    ratio, _ = host.call("ATEDMBudget", model=shared_model(KIND), saving=0.2, **size)
    # a budget is of the model's own FLOPs; regression would cost this tiny one 0.1 % of them
    (patched,) = host.call("ATEDMApply", model=shared_model(KIND), prune_ratio=ratio, recovery="update")
    sample(patched, KIND, steps=2, **size)
    record = records(host)[-1]
    assert 0.2 <= record.saved_share < 0.22


def test_a_schedule_node_prunes_all_blocks_of_the_levels_it_names_alike(host: InProcessHost) -> None:
    chosen = schedule(host, early_percent=0.0, half_level=0.0)
    _, calls = watched_sample(apply(host, shared_model(KIND), schedule=chosen), KIND, width=256, height=256)
    assert set(kept(calls)) == set(QUARTER)
    assert {number for numbers in kept(calls).values() for number in numbers} == {round(TOKENS * (1 - RATIO))}
