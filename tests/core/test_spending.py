from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structures import sdxl

from atedm_core.spending import (
    FEWER_STEPS_ERROR,
    FORECAST_ERROR,
    PRUNING_ERROR,
    SHARES,
    fewer_steps_error,
    forecast_error,
    pruning_error,
    spend,
)
from atedm_core.unet.flops import unet_flops

LATENT = (128, 128)
FULL = unet_flops(sdxl(), LATENT)


def cost_of(ratio: float) -> float:
    return unet_flops(sdxl(), LATENT, ratio) / FULL


groups = st.sampled_from(sorted(FORECAST_ERROR))


def test_what_was_measured_is_given_back():
    for group, table in FORECAST_ERROR.items():
        for steps, values in table.items():
            for share, value in zip(SHARES, values, strict=True):
                assert forecast_error(group, steps, share) == pytest.approx(value)
    for ratio, value in PRUNING_ERROR.items():
        assert pruning_error(ratio) == pytest.approx(value)


def test_every_kind_of_sampler_is_compared_with_fewer_steps():
    assert {group: set(table) for group, table in FEWER_STEPS_ERROR.items()} == {
        group: set(table) for group, table in FORECAST_ERROR.items()
    }


def test_nothing_left_out_errs_by_nothing():
    assert forecast_error("one step", 20, 1.0) == math.inf
    assert pruning_error(0.0) == math.inf


@given(groups, st.integers(1, 200), st.floats(0.05, 0.99), st.floats(0.05, 0.99))
def test_more_real_evaluations_are_nearer(group, steps, one, other):
    fewer, more = sorted((one, other))
    assert forecast_error(group, steps, more) >= forecast_error(group, steps, fewer) - 1e-9


@given(st.floats(0.0, 0.65), st.floats(0.0, 0.65))
def test_more_pruning_is_further(one, other):
    less, more = sorted((one, other))
    assert pruning_error(less) >= pruning_error(more)


@settings(max_examples=60, deadline=None)
@given(st.floats(1.0, 4.0), st.integers(1, 60), groups, st.booleans())
def test_a_budget_is_met_but_for_half_an_evaluation_wherever_it_can_be(speed_up, steps, group, prunes):
    least_real = min(steps, 4)
    found = spend(speed_up, steps, group, least_real, cost_of if prunes else None)
    cost = cost_of(found.prune_ratio) if prunes else 1.0
    assert found.speed_up == pytest.approx(1.0 / (found.compute * cost))
    assert found.compute * steps == pytest.approx(round(found.compute * steps))
    assert found.compute * steps >= least_real - 1e-9
    assert prunes or found.prune_ratio == 0.0
    slack = 1e-6 if prunes else 0.5 / steps
    if 1.0 / found.speed_up > 1.0 / speed_up + slack:  # all that is faster, fewer steps do better, or it cannot be
        faster = spend(4.0, steps, group, least_real, cost_of if prunes else None)
        assert found.speed_up == pytest.approx(faster.speed_up)
    if found.speed_up > 1.0:
        assert found.error >= fewer_steps_error(group, steps, 1.0 / found.speed_up)


def test_without_a_speed_up_nothing_is_left_out():
    found = spend(1.0, 20, "one step", 4, cost_of)
    assert (found.prune_ratio, found.compute) == (0.0, 1.0)


def test_few_steps_of_a_model_that_is_not_pruned_run_in_full():
    assert spend(1.6, 4, "one step", 4).compute == 1.0


def test_few_steps_of_a_unet_are_pruned_instead():
    found = spend(1.4, 4, "multistep", 4, cost_of)
    assert found.compute == 1.0
    assert 1.4 <= found.speed_up < 1.43


def test_of_many_steps_more_are_forecast_and_the_others_pruned_less():
    many, few = (spend(2.0, steps, "one step", 4, cost_of) for steps in (50, 8))
    assert many.compute < 0.75 < few.compute
    assert many.prune_ratio < few.prune_ratio
