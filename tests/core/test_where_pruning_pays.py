from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structures import sd15, sdxl

from atedm_core import DSAPSchedule, PruneSettings, budget_of, kept_tokens
from atedm_core.unet.choosing_flops import choosing_flops
from atedm_core.unet.flops import block_flops
from atedm_core.unet.pruned_cost import is_spared_for_its_cost, kept_in_block, mean_pruned_flops, pruned_flops
from atedm_core.unet.settings import DEFAULT_SETTINGS, PRUNE_POINTS, RANKINGS, RECOVERIES

MODELS = {"sdxl": sdxl(), "sd15": sd15()}
SETTINGS = st.builds(
    PruneSettings,
    ranking=st.sampled_from(RANKINGS),
    iterations=st.integers(1, 10),
    recovery=st.sampled_from(RECOVERIES),
    prune_from=st.sampled_from(PRUNE_POINTS),
    rank_interval=st.integers(1, 5),
)


def kept(model, level, latent, ratio, chosen=DEFAULT_SETTINGS, schedule=None):
    """(tokens, of them kept) in the first block at a level."""
    block = next(block for block in model.blocks if block.level == level)
    tokens = prod(model.grid(level, (latent, latent)))
    schedule = (schedule or DSAPSchedule(ratio)).for_model(model)
    return tokens, kept_in_block(schedule, chosen, block, tokens, 1.0)


@pytest.mark.parametrize("latent", [64, 96, 128])
def test_the_widest_grids_of_sd15_stay_whole(latent):
    """Choosing among 4096 to 16384 tokens takes more than half of what their 320 channels save."""
    tokens, stay = kept(sd15(), 0, latent, 0.66)
    assert stay == tokens
    for level in (1, 2, 3):
        tokens, stay = kept(sd15(), level, latent, 0.66)
        assert stay == kept_tokens(tokens, 0.66)


@pytest.mark.parametrize(
    ("name", "level", "latent", "told"),
    [("sd15", 0, 64, 0.72), ("sd15", 0, 96, 1.51), ("sdxl", 2, 128, 0.005)],
)
def test_choosing_takes_the_share_of_the_saving_that_the_documents_tell(name, level, latent, told):
    block = next(block for block in MODELS[name].blocks if block.level == level)
    tokens = prod(MODELS[name].grid(level, (latent, latent)))
    stay = kept_tokens(tokens, 0.66)
    choosing = choosing_flops(DEFAULT_SETTINGS, block.width, tokens, stay)
    saved = block_flops(block, tokens) - (pruned_flops(DEFAULT_SETTINGS, block, tokens, stay) - choosing)
    assert choosing / saved == pytest.approx(told, abs=0.0051 if told > 0.1 else 0.00051)


def test_it_depends_on_size_ratio_and_settings():
    assert kept(sd15(), 1, 64, 0.3)[1] < 1024
    assert kept(sd15(), 1, 128, 0.3)[1] == 4096
    assert kept(sd15(), 0, 64, 0.9)[1] < 4096
    assert kept(sd15(), 0, 64, 0.66, PruneSettings(prune_from="block start"))[1] < 4096
    assert kept(sd15(), 0, 64, 0.66, PruneSettings(ranking="none", stand_in="grid", recovery="copy"))[1] < 4096


@pytest.mark.parametrize("latent", [64, 128, 256])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.66, 0.9])
def test_sdxls_deep_blocks_pay_at_every_ratio(latent, ratio):
    tokens, stay = kept(sdxl(), 2, latent, ratio)
    assert stay < tokens


def test_levels_that_somebody_gave_are_pruned_all_the_same():
    tokens, stay = kept(sd15(), 0, 96, 0.66, schedule=DSAPSchedule(0.66, level_scales=(1.0, 1.0, 1.0, 1.0)))
    assert stay == kept_tokens(tokens, 0.66)


@settings(max_examples=100, deadline=None)
@given(SETTINGS, st.sampled_from(sorted(MODELS)), st.integers(8, 160), st.floats(0, 0.95))
def test_no_block_costs_more_pruned_than_whole(chosen, name, latent, ratio):
    model = MODELS[name]
    schedule = DSAPSchedule(ratio).for_model(model)
    for block in model.blocks:
        tokens = prod(model.grid(block.level, (latent, latent)))
        stay = kept_in_block(schedule, chosen, block, tokens, 1.0)
        full = block_flops(block, tokens)
        assert mean_pruned_flops(chosen, block, tokens, stay) <= full
        spared = is_spared_for_its_cost(schedule, chosen, block, tokens, 1.0)
        wanted = kept_tokens(tokens, schedule.ratio(1.0, block))
        assert stay == (tokens if spared else wanted)
        if spared:  # more than half of what the layers save would go
            fresh = chosen.fresh_share if chosen.ranks_by_attention else 1.0
            cost = [choosing_flops(chosen, block.width, tokens, wanted, remembered=again) for again in (False, True)]
            choosing = fresh * cost[0] + (1 - fresh) * cost[1]
            saved = full - (mean_pruned_flops(chosen, block, tokens, wanted) - choosing)
            assert choosing > 0.49 * saved


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.sampled_from([32, 64, 96, 128]), st.floats(0, 0.94))
def test_more_pruning_costs_no_more(name, latent, ratio):
    """Blocks come in one by one where they begin to pay; a budget is found by halving."""
    size = (latent, latent)
    less, more = (budget_of(MODELS[name], size, DSAPSchedule(at)).flops for at in (ratio, ratio + 0.01))
    assert more <= less * (1 + 1e-4)


def test_a_remembered_ranking_is_not_paid_for_again():
    block = sdxl().blocks[2]
    by_attention = PruneSettings("self-attention", rank_interval=4)
    fresh, again = (pruned_flops(by_attention, block, 1024, 350, remembered=known) for known in (False, True))
    assert mean_pruned_flops(by_attention, block, 1024, 350) == pytest.approx(fresh / 4 + again * 3 / 4)
    assert mean_pruned_flops(replace(by_attention, rank_interval=1), block, 1024, 350) == fresh > again
