from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structures import sdxl

from atedm_core import DSAPSchedule, budget_of, solve_budget, unet_flops
from atedm_core.unet.budget import progress_weights
from atedm_core.unet.schedule import PAPER_EARLY_PERCENT, PAPER_RATIO
from atedm_core.unet.settings import PAPER_SETTINGS, PRUNE_POINTS, PruneSettings

LATENT = (128, 128)
FLAT = DSAPSchedule(PAPER_RATIO, level_scales=())
PAPER = DSAPSchedule(PAPER_RATIO, PAPER_EARLY_PERCENT, level_scales=())

FREE = PruneSettings(ranking="none", stand_in="grid", recovery="copy")
"""Chooses tokens and fills them in without a matrix product."""
IDEAL = {  # speed-up at ratio 0.63 in all blocks, with the paper's schedule, and by default
    "after first layer": {64: (1.59, 1.50, 1.54), 128: (1.66, 1.55, 1.55), 256: (1.79, 1.66, 1.51)},
    "inside first layer": {64: (1.74, 1.61, 1.61), 128: (1.81, 1.67, 1.62), 256: (1.92, 1.75, 1.56)},
    "block start": {64: (1.81, 1.67, 1.63), 128: (1.96, 1.78, 1.65), 256: (2.39, 2.08, 1.61)},
}


@pytest.mark.parametrize("point", IDEAL)
@pytest.mark.parametrize("edge", [64, 128, 256])
def test_each_pruning_point_has_its_ideal_speed_up(point, edge):
    full = unet_flops(sdxl(), (edge, edge))
    for schedule, expected in zip((FLAT, PAPER, DSAPSchedule()), IDEAL[point][edge], strict=True):
        found = full / budget_of(sdxl(), (edge, edge), schedule, replace(FREE, prune_from=point)).flops
        assert found == pytest.approx(expected, abs=0.0051)


def test_choosing_takes_the_shares_that_the_documents_tell():
    def share(edge, schedule):
        free, counted = (budget_of(sdxl(), (edge, edge), schedule, one).saving for one in (FREE, PruneSettings()))
        return 100 * (1 - counted / free)

    shares = [[share(edge, schedule) for edge in (64, 128, 256)] for schedule in (DSAPSchedule(), FLAT)]
    for found, (least, most) in zip(shares, [(0.1, 0.6), (1.1, 6.5)], strict=True):
        assert min(found) == pytest.approx(least, abs=0.051)
        assert max(found) == pytest.approx(most, abs=0.051)


@settings(max_examples=40, deadline=None)
@given(
    saving=st.floats(0, 0.4),
    edge=st.sampled_from([64, 96, 128]),
    point=st.sampled_from(PRUNE_POINTS),
    early=st.floats(0, 0.4),
)
def test_a_budget_saves_what_was_asked_for_and_not_a_token_more(saving, edge, point, early):
    schedule, latent = DSAPSchedule(early_percent=early), (edge, edge)
    budget = solve_budget(sdxl(), latent, saving, schedule, PruneSettings(prune_from=point))
    assert budget.saving >= saving
    if budget.schedule.prune_ratio > 1e-3:
        less = replace(budget.schedule, prune_ratio=budget.schedule.prune_ratio - 1e-3)
        # a block is pruned from the ratio on at which it pays, and saves that much at once
        assert budget_of(sdxl(), latent, less, PruneSettings(prune_from=point)).flops >= budget.flops * (1 - 1e-3)
    smaller = replace(budget.schedule, prune_ratio=max(0.0, budget.schedule.prune_ratio - 1e-9))
    if budget.schedule.prune_ratio > 0:
        flops = budget_of(sdxl(), latent, smaller, PruneSettings(prune_from=point)).flops
        assert 1 - flops / budget.flops_full < saving + 1e-9


def test_the_papers_saving_gives_the_papers_ratio():
    """The paper counts no operations for ranking; nor does one weigh kept tokens in it."""
    found = solve_budget(sdxl(), LATENT, 1 - 4.342 / 6.761, PAPER, replace(FREE, merge="none"))
    assert found.schedule.prune_ratio == pytest.approx(0.63, abs=1e-3)


def test_choosing_tokens_counts():
    """The paper's ten rounds over a map of all tokens cost more at the half level than they save there."""
    schedule = replace(PAPER, early_percent=0.0)
    half, quarter = budget_of(sdxl(), LATENT, schedule, PAPER_SETTINGS).levels
    assert half.flops > half.flops_full
    assert quarter.flops < quarter.flops_full
    free = budget_of(sdxl(), LATENT, schedule, FREE)
    ours = budget_of(sdxl(), LATENT, schedule)
    assert 0.01 < (free.saving - ours.saving) / free.saving < 0.05
    with pytest.raises(ValueError, match=r"30\.0%.*at most 0\.0% can be saved.*1\.00x.*'redundancy'"):
        solve_budget(sdxl(), (256, 256), 0.3, schedule, PAPER_SETTINGS)


def test_nothing_to_save_needs_no_pruning():
    assert solve_budget(sdxl(), LATENT, 0.0).schedule.prune_ratio == 0.0


def test_more_than_can_be_saved_is_refused_with_the_most_that_can():
    with pytest.raises(ValueError, match=r"80.0%.*at most 51.7%.*2.07x"):
        solve_budget(sdxl(), LATENT, 0.8, PAPER)
    with pytest.raises(ValueError, match=r"saving is 1\.0"):
        solve_budget(sdxl(), LATENT, 1.0)


def test_levels_and_the_rest_add_up_to_the_model():
    budget = budget_of(sdxl(), LATENT, replace(PAPER, ramp="cosine"))
    rest = budget.flops_full - sum(level.flops_full for level in budget.levels)
    assert rest + sum(level.flops for level in budget.levels) == pytest.approx(budget.flops)
    assert [(level.name, level.blocks, level.layers) for level in budget.levels] == [
        ("half", 5, 10),
        ("quarter", 6, 60),
    ]


@pytest.mark.parametrize("interval", [1, 2, 5, 20])
def test_a_ranking_by_attention_keeps_a_block_from_dropping_tokens_at_its_start(interval):
    """What ranks in this call drops inside the first layer; only the calls between save as much as was asked for."""
    by_attention = PruneSettings("self-attention", prune_from="block start", rank_interval=interval)
    ranked = replace(by_attention, prune_from="inside first layer", rank_interval=1)
    remembered = replace(by_attention, ranking="none", stand_in="grid")  # stand-ins are remembered with it
    inside, start = (budget_of(sdxl(), LATENT, FLAT, settings).flops for settings in (ranked, remembered))
    assert start < inside
    expected = inside / interval + start * (1 - 1 / interval)
    budget = budget_of(sdxl(), LATENT, FLAT, by_attention)
    assert budget.flops == pytest.approx(expected)
    rest = budget.flops_full - sum(level.flops_full for level in budget.levels)
    assert rest + sum(level.flops for level in budget.levels) == pytest.approx(expected)


@given(st.floats(0, 1), st.sampled_from(["step", "linear", "cosine"]))
def test_a_run_is_averaged_over_all_of_its_progress(early, ramp):
    weights = progress_weights(DSAPSchedule(early_percent=early, ramp=ramp))
    assert sum(weight for _, weight in weights) == pytest.approx(1.0)
    assert all(0 <= progress <= 1 for progress, _ in weights)
