"""How a budget is split between forecasts of whole evaluations and tokens of a transformer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atedm_core.dit.flops import transformer_flops
from atedm_core.dit.selection import CATSelection
from atedm_core.dit.spending import FEWEST_TO_FORECAST, LEAST_SHARE, spend_on_transformer
from atedm_core.dit.structures import sd3_structure

SD3 = sd3_structure()
TOKENS, TEXT = 4096, 154


def cost_of(keep: float) -> float:
    full = transformer_flops(SD3, TOKENS, TEXT)
    return transformer_flops(SD3, TOKENS, TEXT, CATSelection(keep).kept(TOKENS)) / full


@given(speed_up=st.floats(1.0, 4.0), steps=st.integers(8, 60), forecasts=st.booleans(), settled=st.integers(0, 2))
@settings(max_examples=80, deadline=None)
def test_what_is_wanted_is_reached_and_not_passed_by_much(
    speed_up: float, steps: int, forecasts: bool, settled: int
) -> None:
    found = spend_on_transformer(speed_up, steps, 4 if forecasts else steps, cost_of, settled=settled)
    real, wanted = round(found.compute * steps), max(1 / speed_up, LEAST_SHARE)
    full = found.schedule.warmup_steps(steps) if real < steps else steps - found.schedule.pruned_steps(steps)
    assert 0.1 <= found.keep_ratio <= 1.0
    assert 4 <= real <= steps
    assert found.share == pytest.approx((full + (real - full) * cost_of(found.keep_ratio)) / steps)
    if 3 + (steps - 3) * cost_of(0.2) <= wanted * steps:
        assert found.share <= wanted + 1e-9
        whole = 1 / steps if found.keep_ratio == 1.0 else 0.02
        assert found.share >= wanted - whole - 1e-9


def test_no_speed_up_leaves_all_there() -> None:
    found = spend_on_transformer(1.0, 20, 4, cost_of)
    assert (found.keep_ratio, found.compute, found.share) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("speed_up", "real"), [(1.25, 16), (1.5, 13), (1.6, 12)])
def test_forecasts_alone_as_long_as_three_in_five_evaluations_are_real(speed_up: float, real: int) -> None:
    found = spend_on_transformer(speed_up, 20, 4, cost_of)
    assert (found.keep_ratio, round(20 * found.compute)) == (1.0, real)


@pytest.mark.parametrize("speed_up", [2.0, 2.4])
def test_what_is_to_be_saved_beyond_that_is_saved_by_tokens(speed_up: float) -> None:
    found = spend_on_transformer(speed_up, 20, 4, cost_of)
    assert round(20 * found.compute) == 12
    assert 0.4 < found.keep_ratio < 1.0
    assert found.schedule.refresh_interval == 0


def test_few_steps_and_noisy_samplers_are_left_to_tokens_with_every_other_step_whole() -> None:
    for steps, least_real in ((FEWEST_TO_FORECAST - 1, 4), (20, 20)):
        found = spend_on_transformer(1.4, steps, least_real, cost_of, settled=1)
        assert found.compute == 1.0
        assert found.keep_ratio < 1.0
        assert (found.schedule.refresh_interval, found.schedule.settled_steps) == (2, 1)


def test_where_every_other_step_is_too_many_there_is_none() -> None:
    found = spend_on_transformer(2.0, 20, 20, cost_of)
    assert found.schedule.refresh_interval == 0
    assert 0.2 < found.keep_ratio < 0.5
