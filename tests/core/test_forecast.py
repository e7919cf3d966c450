"""Forecasts of predictions, and what a real one says of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atedm_core.forecast import LEAST_NOISE, MOST_NOISE, PRIOR_WEIGHTS, PredictionHistory, half_log_snr

SIZE = (2, 4, 8, 8)


def picture(seed: int) -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


def after(places, truth) -> PredictionHistory:
    """A history that has seen the truth at places, and has taken in what it measured."""
    history = PredictionHistory()
    for place in places:
        history.observe(place, truth(place))
        history.measured()
    return history


@given(st.floats(1e-3, 0.999))
def test_flow_models_are_placed_by_their_signal_and_noise(sigma):
    assert half_log_snr(sigma, flow=True) == pytest.approx(max(math.log((1 - sigma) / sigma), MOST_NOISE))


@given(st.floats(1e-3, 100))
def test_other_models_are_placed_by_their_noise(sigma):
    assert half_log_snr(sigma, flow=False) == pytest.approx(-math.log(sigma))


@pytest.mark.parametrize("flow", [False, True])
@given(sigma=st.floats(0, 1e9))
def test_a_place_is_a_finite_number_at_any_noise(flow, sigma):
    assert MOST_NOISE <= half_log_snr(min(sigma, 1.0) if flow else sigma, flow) <= LEAST_NOISE


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6, unique_by=lambda x: round(x, 1)), st.floats(-5, 6))
def test_what_does_not_change_is_forecast_exactly(places, place):
    constant = picture(1)
    history = after(places, lambda _: constant)
    assert torch.equal(history.forecast(place), constant)


def test_one_real_prediction_is_held():
    history = after([0.0], lambda _: picture(1))
    assert torch.equal(history.forecast(1.0), picture(1))


def test_before_anything_was_fitted_differences_have_their_prior_weight():
    history = PredictionHistory()
    history.observe(0.0, picture(1))
    history.observe(1.0, picture(2))
    expected = picture(2) + PRIOR_WEIGHTS[0] * 0.5 * (picture(2) - picture(1))
    torch.testing.assert_close(history.forecast(1.5), expected)


@settings(deadline=None)
@given(step=st.floats(0.05, 1.0), slope=st.floats(0.1, 10))
def test_a_straight_line_is_learned(step, slope):
    """The prior does not go on as far as a line does; what it misses is measured and taken in."""
    start, direction = picture(1), slope * picture(2)
    places = [step * number for number in range(9)]
    history = after(places, lambda place: start + place * direction)
    next_place = 9 * step
    truth = start + next_place * direction
    held = (truth - (start + places[-1] * direction)).norm()
    assert (history.forecast(next_place) - truth).norm() < 0.15 * held


def test_predictions_without_memory_of_their_slope_are_held():
    """As under an SDE: every change is new, and going on as before would double it."""
    steps = [picture(10 + number) for number in range(12)]
    history = after(range(10), lambda place: sum(steps[: int(place) + 1]))
    change = (history.forecast(10.0) - history.forecast(9.0)).norm() / steps[0].norm()
    assert change < 0.2


def test_the_measured_error_is_that_of_the_forecast_in_its_place():
    truth = lambda place: picture(1) * math.cos(place) + picture(2) * math.sin(place)  # noqa: E731
    history = after([0.0, 0.3, 0.7], truth)
    expected = (history.forecast(1.1) - truth(1.1)).square().mean().sqrt()
    history.observe(1.1, truth(1.1))
    found = history.measured()
    assert found.error == pytest.approx(float(expected), rel=1e-4)
    assert found.size == pytest.approx(float(truth(1.1).square().mean().sqrt()), rel=1e-5)


def test_an_error_is_told_once():
    history = PredictionHistory()
    history.observe(0.0, picture(1))
    assert history.measured() is None
    history.observe(1.0, picture(2))
    assert history.measured() is not None
    assert history.measured() is None


def test_two_evaluations_at_one_noise_level_count_as_the_latter():
    """heun asks twice at each; a divided difference over no distance has no value."""
    history = after([0.0, 1.0], lambda place: picture(int(place)))
    history.observe(1.0, picture(7))
    assert history.measured().error == pytest.approx(float((picture(7) - picture(1)).square().mean().sqrt()), rel=1e-4)
    forecast = history.forecast(2.0)
    assert torch.isfinite(forecast).all()
    torch.testing.assert_close(history.forecast(1.0), picture(7))


def test_predictions_that_are_no_numbers_have_an_infinite_error():
    history = after([0.0], lambda _: picture(1))
    history.observe(1.0, torch.full(SIZE, math.nan))
    assert history.measured().relative == math.inf
    history.observe(2.0, picture(2))
    assert history.measured().relative == math.inf


def test_half_precision_predictions_are_measured_in_single_precision():
    history = PredictionHistory()
    history.observe(0.0, 200 * picture(1).half())
    history.observe(1.0, 300 * picture(1).half())
    found = history.measured()
    assert found.size == pytest.approx(300 * float(picture(1).square().mean().sqrt()), rel=1e-2)
    assert history.forecast(1.5).dtype == torch.float16


def test_a_held_forecast_is_repaid_on_the_line_to_the_next_real_prediction():
    history = after([0.0], lambda _: picture(1))
    truth = picture(1) + 2.0 * picture(2)
    # one forecast half way, weighing as much as the evaluation that repays it: it held, and should have gone half way
    repaid = history.repayment(1.0 * 0.5, 1.0, truth)
    torch.testing.assert_close(repaid, picture(1) - (picture(1) + 1.0 * picture(2)))


def test_forecasts_on_the_line_to_the_truth_owe_nothing():
    history = PredictionHistory()
    history.observe(0.0, picture(1))
    history.observe(1.0, picture(2))
    truth = history.forecast(2.0)
    torch.testing.assert_close(history.repayment(3.0, 2.0, truth), torch.zeros(SIZE), atol=1e-5, rtol=0)


def test_a_history_keeps_three_predictions_and_none_after_a_reset():
    history = after(range(6), lambda place: picture(int(place)))
    assert len(history) == 3
    history.reset()
    assert len(history) == 0


@pytest.mark.parametrize("other", [torch.zeros(1, 4, 8, 8), torch.zeros(2, 4, 8, 9), torch.zeros(SIZE).half()])
def test_another_latent_does_not_continue_a_history(other):
    history = after([0.0], lambda _: picture(1))
    assert history.fits(picture(3))
    assert not history.fits(other)
