from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structures import sdxl

from atedm_core import AttentionBlock, DSAPSchedule, block_flops, kept_tokens, prune_point, unet_flops
from atedm_core.unet.flops import cross_attention_flops, feed_forward_flops, self_attention_flops
from atedm_core.unet.schedule import PAPER_EARLY_PERCENT, PAPER_RATIO
from atedm_core.unet.structure import stage_ends

PAPER = DSAPSchedule(PAPER_RATIO, PAPER_EARLY_PERCENT)


def test_sdxl_costs_what_the_paper_says():
    assert unet_flops(sdxl(), (128, 128)) == pytest.approx(6.761e12, rel=1e-4)
    assert unet_flops(sdxl(), (128, 128), 0.63) == pytest.approx(4.065e12, rel=1e-4)


def test_the_papers_schedule_costs_sdxl_what_the_paper_says():
    schedule = PAPER
    early, late = (
        unet_flops(sdxl(), (128, 128), lambda block, p=progress: schedule.ratio(p, block)) for progress in (0.1, 0.9)
    )
    assert 0.3 * early + 0.7 * late == pytest.approx(4.342e12, rel=1e-4)
    level_1_whole = unet_flops(sdxl(), (128, 128), lambda block: 0.63 if block.level == 2 else 0.0)
    assert level_1_whole == pytest.approx(4.443e12, rel=1e-4)


def test_the_papers_schedule_spares_four_of_sdxls_blocks():
    spared = [(block.part, block.index) for block in sdxl().blocks if PAPER.ratio(0.0, block) == 0]
    assert spared == [("input", 4), ("input", 7), ("output", 2), ("output", 5)]


def test_after_the_early_phase_every_block_is_pruned():
    assert {PAPER.ratio(0.3, block) for block in sdxl().blocks} == {0.63}


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_by_default_all_steps_are_pruned_alike_at_the_papers_flops_and_shallow_blocks_stay_whole(progress):
    schedule = DSAPSchedule().for_model(sdxl())
    dropped = [(block.layers, schedule.ratio(progress, block)) for block in sdxl().blocks]
    assert {ratio for layers, ratio in dropped if layers == 2} == {0.0}
    deep = [ratio for layers, ratio in dropped if layers == 10]
    assert sum(deep) / len(deep) == pytest.approx(DSAPSchedule().prune_ratio)
    found = unet_flops(sdxl(), (128, 128), lambda block: schedule.ratio(progress, block))
    assert found == pytest.approx(4.342e12, rel=7e-3)


def test_levels_that_are_given_are_not_changed_and_blocks_of_one_depth_are_pruned_alike():
    given_levels = DSAPSchedule(level_scales=(1.0, 0.5))
    assert given_levels.for_model(sdxl()) is given_levels
    shallow = replace(sdxl(), blocks=tuple(replace(block, layers=1) for block in sdxl().blocks))
    assert set(DSAPSchedule().for_model(shallow).level_scales or ()) == {1.0}


@pytest.mark.parametrize(("early_blocks", "spared"), [("stage ends", 4), ("all", 11), ("none", 0)])
def test_early_blocks_says_which_are_spared(early_blocks, spared):
    schedule = DSAPSchedule(early_percent=0.3, early_blocks=early_blocks, early_ratio=0.2)
    assert sum(schedule.ratio(0.0, block) == 0.2 for block in sdxl().blocks) == spared


@given(st.floats(0, 1), st.floats(0, 0.95), st.floats(0, 1), st.floats(0, 0.95))
def test_the_early_phase_never_prunes_more_than_the_late_one(progress, ratio, percent, early):
    schedule = DSAPSchedule(ratio, percent, early, "all")
    for block in sdxl().blocks[:1]:
        found = schedule.ratio(progress, block)
        assert found == (min(early, ratio) if progress < percent else ratio)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prune_ratio": 0.96}, "prune_ratio is 0.96.*0 to 0.95"),
        ({"prune_ratio": float("nan")}, "prune_ratio is nan"),
        ({"early_percent": -0.1}, "early_percent is -0.1"),
        ({"early_ratio": 1.0}, "early_ratio is 1.0"),
        ({"early_blocks": "some"}, "'some'.*stage ends, all, none"),
        ({"ramp": "jump"}, "ramp is 'jump'"),
        ({"level_scales": (1.0, -1.0)}, "half_level is -1.0"),
        ({"level_scales": (1.0,) * 5}, "5 values"),
    ],
)
def test_values_outside_their_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        DSAPSchedule(**values)


@pytest.mark.parametrize(("ramp", "at_half"), [("step", 0.1), ("linear", 0.35), ("cosine", 0.35)])
def test_a_ramp_rises_from_the_early_ratio_to_the_full_one(ramp, at_half):
    schedule = DSAPSchedule(0.6, 0.4, 0.1, "all", ramp)
    spared = sdxl().blocks[0]
    assert schedule.ratio(0.0, spared) == pytest.approx(0.1)
    assert schedule.ratio(0.2, spared) == pytest.approx(at_half)
    assert schedule.ratio(0.4, spared) == 0.6
    rising = [schedule.ratio(i / 100, spared) for i in range(101)]
    assert rising == sorted(rising)


def test_a_level_can_be_left_whole_or_pruned_more():
    schedule = DSAPSchedule(0.6, early_percent=0.0, level_scales=(1.0, 0.0, 1.8))
    assert {(block.level, schedule.ratio(1.0, block)) for block in sdxl().blocks} == {(1, 0.0), (2, 0.95)}


def test_a_level_that_the_model_lacks_is_refused_by_name():
    DSAPSchedule(level_scales=(1.0, 0.5, 0.5, 1.0)).check_levels(sdxl())
    with pytest.raises(ValueError, match=r"eighth_level is 0.5.*only at: half, quarter"):
        DSAPSchedule(level_scales=(1.0, 1.0, 1.0, 0.5)).check_levels(sdxl())


@pytest.mark.parametrize("point", ["after first layer", "inside first layer", "block start"])
def test_earlier_points_save_more(point):
    order = ["after first layer", "inside first layer", "block start"]
    flops = [block_flops(block(2), 100, 37, point=name) for name in order]
    assert flops == sorted(flops, reverse=True)
    assert prune_point(2, point) == point
    assert prune_point(1, point) == ("inside first layer" if point == "after first layer" else point)


def test_stages_are_runs_at_one_resolution_on_one_side():
    places = [("input", 0), ("input", 0), ("input", 1), ("middle", 2), ("output", 1), ("output", 0), ("output", 0)]
    assert stage_ends(places) == [True, False, True, False, True, False, True]


def test_halving_rounds_up_as_the_strided_convolution_does():
    assert [sdxl().grid(level, (33, 25)) for level in range(3)] == [(33, 25), (17, 13), (9, 7)]


def block(layers: int) -> AttentionBlock:
    return AttentionBlock("middle", 0, 1, layers, 320, 320, 8, 768)


def test_one_layer_is_the_sum_of_its_parts():
    parts = self_attention_flops(320, 100) + cross_attention_flops(320, 100, 768, 77) + feed_forward_flops(320, 100)
    assert block_flops(block(1), 100) == parts + 2 * 2 * 100 * 320 * 320


def test_a_block_of_one_layer_is_pruned_inside_it_and_a_deeper_one_after_its_first():
    assert [prune_point(layers) for layers in (1, 2, 10)] == ["inside first layer", *["after first layer"] * 2]
    full, pruned = block_flops(block(1), 100), block_flops(block(1), 100, 37)
    saved = cross_attention_flops(320, 100, 768, 77) - cross_attention_flops(320, 37, 768, 77)
    assert full - pruned == saved + feed_forward_flops(320, 100) - feed_forward_flops(320, 37)


@given(st.integers(1, 10), st.integers(1, 500), st.floats(0, 0.95))
def test_pruning_never_costs_more(layers, tokens, ratio):
    kept = kept_tokens(tokens, ratio)
    full = block_flops(block(layers), tokens)
    bracketed = block_flops(block(layers), tokens, kept, self_on_grid=True, cross_on_grid=True)
    assert block_flops(block(layers), tokens, kept) <= bracketed <= full
