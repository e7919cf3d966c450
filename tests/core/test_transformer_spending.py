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


@given(speed_up=st.floats(1.0, 4.0), steps=st.integers(8, 60))
@settings(max_examples=60, deadline=None)
def test_what_is_wanted_is_reached_and_not_passed_by_much(speed_up: float, steps: int) -> None:
    found = spend_on_transformer(speed_up, steps, 4, 3, cost_of)
    assert 0.2 <= found.keep_ratio <= 1.0
    assert 4 <= round(found.compute * steps) <= steps
    real = round(found.compute * steps)
    assert found.share == pytest.approx((3 + (real - 3) * cost_of(found.keep_ratio)) / steps)
    wanted = max(1 / speed_up, LEAST_SHARE)
    if 3 + (steps - 3) * cost_of(0.2) <= wanted * steps:
        assert wanted - 0.02 <= found.share <= wanted + 1e-9


def test_no_speed_up_leaves_all_there() -> None:
    found = spend_on_transformer(1.0, 20, 4, 3, cost_of)
    assert (found.keep_ratio, found.compute, found.share) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("speed_up", [1.5, 1.6, 2.0])
@pytest.mark.parametrize("steps", [16, 20, 28, 50])
def test_both_save_about_the_same(speed_up: float, steps: int) -> None:
    found = spend_on_transformer(speed_up, steps, 4, 3, cost_of)
    assert cost_of(found.keep_ratio) == pytest.approx(found.compute, rel=0.12)


def test_a_small_speed_up_is_left_to_tokens() -> None:
    found = spend_on_transformer(1.3, 28, 4, 3, cost_of)
    assert found.compute == 1.0
    assert found.keep_ratio < 1.0


def test_few_steps_are_all_real() -> None:
    assert spend_on_transformer(1.6, FEWEST_TO_FORECAST - 1, 4, 3, cost_of).compute == 1.0
    assert spend_on_transformer(1.6, FEWEST_TO_FORECAST, 4, 3, cost_of).compute < 1.0
