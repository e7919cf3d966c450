"""How much each attention block is pruned: late ones less, early ones more, the mean as asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structures import sdxl

from atedm_core import UNetStructure
from atedm_core.unet.schedule import MAX_RATIO, PAPER_SCHEDULE, DSAPSchedule
from atedm_core.unet.sparing import LATE_OFFSETS, MOST_SPREAD, BlockShare, block_shares, ratios_with_mean

SHARES = block_shares(sdxl(), 2)
means = st.floats(0.0, MAX_RATIO)
some_shares = st.lists(st.tuples(st.floats(0.1, 50.0), st.floats(0.0, 1.0)), min_size=1, max_size=16).map(
    lambda found: tuple(BlockShare(f"input {i}", weight, offset) for i, (weight, offset) in enumerate(found))
)


@given(means, some_shares)
def test_the_mean_over_what_blocks_weigh_is_what_was_asked_for(mean, shares):
    found = ratios_with_mean(mean, shares)
    weights = sum(share.weight for share in shares)
    assert sum(share.weight * found[share.name] for share in shares) / weights == pytest.approx(mean, abs=1e-6)
    assert all(0.0 <= ratio <= max(MOST_SPREAD, mean) for ratio in found.values())


@given(means, some_shares)
def test_blocks_within_the_limits_differ_by_their_offsets(mean, shares):
    found = ratios_with_mean(mean, shares)
    inside = [share for share in shares if 1e-9 < found[share.name] < max(MOST_SPREAD, mean) - 1e-9]
    for one, other in pairwise(inside):
        assert found[one.name] - found[other.name] == pytest.approx(other.offset - one.offset, abs=1e-9)
    for share in shares:  # and none at its lower limit could have taken over from one that drops more
        assert found[share.name] > 0 or all(found[s.name] <= share.offset - s.offset + 1e-9 for s in inside)


def test_sdxl_spares_the_end_of_its_deep_up_stage():
    assert [share.name for share in SHARES] == ["input 7", "input 8", "middle 0", "output 0", "output 1", "output 2"]
    ratios = [round(ratio, 2) for ratio in ratios_with_mean(0.66, SHARES).values()]
    assert ratios == [0.9, 0.9, 0.9, 0.84, 0.42, 0.0]
    assert len({share.weight for share in SHARES}) == 1


def test_the_end_of_an_up_stage_is_counted_from_its_last_block():
    shares = {share.name: share.offset for share in block_shares(sdxl(), 1)}
    late = dict(zip(("output 5", "output 4", "output 3"), LATE_OFFSETS, strict=True))
    assert shares == {"input 4": 0.0, "input 5": 0.0, **late}
    longer = UNetStructure(tuple(replace(sdxl().blocks[8], index=i) for i in range(5)), (1,))
    assert [share.offset for share in block_shares(longer, 1)] == [0.0, 0.0, *reversed(LATE_OFFSETS)]


def test_where_several_levels_are_pruned_blocks_are_pruned_alike():
    alike = UNetStructure(tuple(replace(block, layers=4) for block in sdxl().blocks), (1, 1, 1))
    schedule = DSAPSchedule(0.5).for_model(alike)
    assert schedule.block_shares == ()
    assert {schedule.ratio(1.0, block) for block in alike.blocks} == {0.5}


def test_only_a_schedule_for_a_model_spreads_and_any_ratio_keeps_the_spread():
    spread = DSAPSchedule(0.5).for_model(sdxl())
    assert spread.block_shares == SHARES
    assert DSAPSchedule(0.5).block_shares == ()
    assert PAPER_SCHEDULE.for_model(sdxl()) == PAPER_SCHEDULE
    assert DSAPSchedule(0.5, level_scales=(1.0, 1.0, 1.0)).for_model(sdxl()).block_shares == ()
    for ratio in (0.0, 0.3, 0.66, 0.95):
        dropped = [replace(spread, prune_ratio=ratio).ratio(1.0, block) for block in sdxl().blocks if block.level == 2]
        assert sum(dropped) / len(dropped) == pytest.approx(ratio, abs=1e-6)
    assert {spread.ratio(1.0, block) for block in sdxl().blocks if block.level == 1} == {0.0}


def test_an_early_phase_spares_no_more_than_there_is_to_spare():
    spread = DSAPSchedule(0.66, early_percent=0.5, early_ratio=0.3, early_blocks="all").for_model(sdxl())
    deep = [block for block in sdxl().blocks if block.level == 2]
    assert [round(spread.ratio(0.2, block), 2) for block in deep] == [0.3, 0.3, 0.3, 0.3, 0.3, 0.0]
