"""The budget of real evaluations, and where they go."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atedm_core.forecast_plan import WORST_ERROR, BudgetController, ForecastSettings, error_profile, planned_nearness
from atedm_core.forecast_schedule import EvaluationSchedule, StepShare, levels_of_dpm_fast, step_shares, step_weights


def falling(steps: int, highest: float = 14.6, lowest: float = 0.03) -> list[float]:
    ratio = (lowest / highest) ** (1 / max(steps - 1, 1))
    return [highest * ratio**step for step in range(steps)] + [0.0]


def play(asked: ForecastSettings, sigmas, error, multistep=False, calls=1) -> str:
    """A run by letters: R for real, . for forecast. `error(sigma)` is what every real evaluation measures."""
    schedule = EvaluationSchedule(sigmas, False, multistep, asked.first_steps, asked.last_steps)
    controller, letters = BudgetController(asked), ""
    steps = len(sigmas) - 1
    for step in range(steps):
        for call in range(calls if step < steps - 1 else 1):
            sigma = sigmas[step] if call == 0 else math.sqrt(sigmas[step] * sigmas[step + 1])
            schedule.arrive(sigma)
            coming = schedule.coming()
            if controller.next_is_real(coming):
                controller.spend(schedule.place)
                if controller.real > 1:
                    controller.learn(error(sigma))
                letters += "R"
            else:
                controller.skip(coming[0])
                letters += "."
    return letters


@settings(deadline=None, max_examples=60)
@given(
    steps=st.integers(1, 60),
    compute=st.floats(0, 1),
    exponent=st.floats(-0.5, 1.5),
    multistep=st.booleans(),
    calls=st.integers(1, 3),
)
def test_the_budget_is_met_within_an_evaluation_or_a_steps_worth(steps, compute, exponent, multistep, calls):
    """Or missed by what the settings force to be real, whatever the errors."""
    asked = ForecastSettings(compute)
    letters = play(asked, falling(steps), lambda sigma: 0.005 * sigma**exponent, multistep, calls)
    forced = calls * asked.first_steps + 1 + math.ceil(len(letters) / (asked.most_skips + 1))
    target = compute * len(letters)
    # a sampler's calls per step are known after its first steps, its last step's only when it is over
    slack = 1.5 if calls < 3 else 2.0
    assert letters.count("R") <= max(target + slack, forced)
    assert letters.count("R") >= min(target - slack, len(letters))


@settings(deadline=None, max_examples=30)
@given(steps=st.integers(5, 50), compute=st.floats(0, 0.9))
def test_both_ends_are_real_and_no_row_of_forecasts_is_longer_than_allowed(steps, compute):
    asked = ForecastSettings(compute, first_steps=2, last_steps=2, most_skips=3)
    letters = play(asked, falling(steps), lambda sigma: 0.01)
    assert letters.startswith("RR")
    assert letters.endswith("RR")
    assert "...." not in letters


@given(steps=st.integers(1, 40))
def test_all_of_the_compute_leaves_nothing_out(steps):
    assert play(ForecastSettings(1.0), falling(steps), lambda sigma: 0.01) == "R" * steps


def test_real_evaluations_go_where_steps_are_long():
    short_then_long = [0.97**step for step in range(20)] + [0.97**19 * 0.8**step for step in range(1, 20)] + [0.0]
    letters = play(ForecastSettings(0.5), short_then_long, lambda sigma: 0.01)
    assert letters[20:].count("R") > letters[:20].count("R") + 3


def test_an_error_costs_most_where_a_model_decides_what_to_draw():
    between = error_profile(-math.log(14.0))
    assert between > 1.5 * error_profile(-math.log(1.0))
    assert between > 1.1 * error_profile(-math.log(150.0))


def test_a_schedule_that_stays_long_in_pure_noise_leaves_its_budget_for_the_picture():
    """Karras with zero-terminal SNR: 12 of 20 steps end at noise over signal 50 or more."""
    low, high = 0.03 ** (1 / 7), 4500.0 ** (1 / 7)
    sigmas = [(high + step / 19 * (low - high)) ** 7 for step in range(20)] + [0.0]
    letters = play(ForecastSettings(0.6), sigmas, lambda sigma: 0.01)
    picture = letters[sum(sigma > 50.0 for sigma in sigmas[:-1]) :]
    assert picture.count("R") > 0.6 * len(picture)
    assert "..." not in picture


@pytest.mark.parametrize("multistep", [False, True])
def test_steps_that_go_nowhere_are_no_trouble(multistep):
    letters = play(ForecastSettings(0.5), [1.0] * 12 + [0.0], lambda sigma: 0.01, multistep)
    assert len(letters) == 12
    assert letters.endswith("R")


def test_a_model_that_cannot_be_forecast_is_run_in_full():
    sigmas = falling(30)
    assert play(ForecastSettings(0.4), sigmas, lambda sigma: 20 * WORST_ERROR) == "R" * 30
    assert play(ForecastSettings(0.4), sigmas, lambda sigma: math.nan) == "R" * 30


def test_forecasts_go_on_when_a_later_evaluation_measures_a_small_error_again():
    letters = play(ForecastSettings(0.5), falling(40), lambda sigma: math.inf if sigma > 2 else 0.01)
    assert letters[:8] == "R" * 8
    assert "." in letters[20:]


def test_forbidden_forecasts_are_counted():
    controller = BudgetController(ForecastSettings(0.3))
    schedule = EvaluationSchedule(falling(20), False, False, 1, 1)
    for sigma in falling(20)[:10]:
        schedule.arrive(sigma)
        assert controller.next_is_real(schedule.coming())
        controller.spend(schedule.place)
        controller.learn(50.0)
    assert controller.refused > 0
    assert controller.skipped == 0


def to_come(sigmas, multistep=False, first_steps=3, last_steps=1):
    schedule = EvaluationSchedule(sigmas, False, multistep, first_steps, last_steps)
    schedule.arrive(sigmas[0])
    return schedule.coming()


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(1, 60), multistep=st.booleans(), data=st.data())
def test_more_real_evaluations_are_planned_to_be_nearer(steps, multistep, data):
    coming = to_come(falling(steps), multistep)
    fewer, more = sorted(data.draw(st.integers(0, steps)) for _ in range(2))
    assert planned_nearness(coming, more) >= planned_nearness(coming, fewer) - 6.0  # gaps are whole evaluations
    assert planned_nearness(coming, steps) == math.inf
    assert planned_nearness(coming, 0) > -math.inf


def test_a_plan_is_what_a_run_does():
    """Where errors are as a plan takes them to be: two forecasts in a row add up, apart their squares do."""
    sigmas, asked = falling(24), ForecastSettings(0.5)
    letters = play(asked, sigmas, lambda sigma: 0.01)
    coming, place, gaps = to_come(sigmas), 0.0, [0.0]
    for letter, one in zip(letters, coming, strict=True):
        if letter == "R":
            place = one.place
            gaps.append(0.0)
        else:
            gaps[-1] += (one.place - place) * error_profile(one.place) * one.weight
    done = -10 * math.log10(sum(gap**2 for gap in gaps))
    assert planned_nearness(coming, letters.count("R")) == pytest.approx(done, abs=2.0)


def test_leaving_out_steps_that_go_nowhere_costs_less_than_long_ones():
    slow_end = [*falling(10, lowest=0.3)[:-1], *(0.3 * 0.98**step for step in range(1, 10)), 0.0]
    assert planned_nearness(to_come(slow_end), 14) > planned_nearness(to_come(falling(19)), 14) + 6.0


@given(st.integers(2, 40))
def test_a_step_weighs_its_prediction_by_how_much_noise_it_takes(steps):
    weights = step_weights(falling(steps), multistep=False)
    assert len(weights) == steps
    assert weights[-1] == 1.0
    assert all(0 < weight <= 1 for weight in weights)


def test_a_multistep_sampler_weighs_what_comes_before_a_long_step_heavily():
    sigmas = [2.0, 1.6, 1.3, 1.0, 0.1, 0.0]
    plain, multistep = step_weights(sigmas, False), step_weights(sigmas, True)
    assert multistep[2] > 3 * plain[2]
    assert multistep[3] > 3 * plain[3]
    assert multistep[4] == plain[4]


@given(st.integers(3, 30), st.booleans(), st.booleans(), st.booleans())
def test_a_step_counts_for_what_an_error_in_it_does_to_the_end_of_the_run(steps, stochastic, flow, multistep):
    """Played through: an error of one in a step's prediction, in the latent before the last step."""
    sigmas = [at / (1 + at) for at in falling(steps)] if flow else falling(steps)

    def half_log_snr(sigma):
        # an ODE's multistep samplers step evenly in the noise level's logarithm, whatever the model
        return math.log((1 - sigma if flow and stochastic else 1.0) / sigma)

    def kept(at, after):
        """Of the latent in a step: all of it in an ODE's; an SDE's with `eta` 1 takes `exp(-h)` of that once more."""
        return after / at * (math.exp(half_log_snr(at) - half_log_snr(after)) if stochastic else 1.0)

    def effect(step):
        latent, signal, before = 0.0, 1.0, None
        predictions = [float(number == step) for number in range(steps)]
        for number, (at, after) in enumerate(pairwise(sigmas[:-1])):
            ratio, width = kept(at, after), half_log_snr(after) - half_log_snr(at)
            # what a prediction adds: the latent that it stands for, less what is kept of the one before
            now = (1 - after if flow else 1.0), (1 - at if flow else 1.0)
            given = predictions[number]
            if multistep and before is not None:
                given += width / (2 * before) * (given - predictions[number - 1])
            latent = ratio * latent + (now[0] - ratio * now[1]) * given
            signal, before = now[0], width
        return latent / signal

    shares = step_shares(sigmas, stochastic, multistep, flow)
    assert shares[-1] == StepShare(0.0, False)
    unit = effect(steps - 2) / shares[steps - 2].weight
    for step, share in enumerate(shares[:-1]):
        assert share.weight * unit == pytest.approx(effect(step), rel=1e-6, abs=1e-9 * abs(effect(steps - 2)))


def test_nothing_is_repaid_before_a_step_that_would_throw_it_about():
    sigmas = [2.0, 1.8, 1.6, 1.4, 1.2, 0.1, 0.05, 0.0]
    long_before_last = [True, True, True, False, True, True, False]
    assert [share.repays for share in step_shares(sigmas, False, multistep=True)] == long_before_last
    assert [share.repays for share in step_shares(sigmas, False)] == [True] * 6 + [False]


def test_steps_through_pure_noise_are_as_wide_as_the_sampler_takes_them():
    """Zero-terminal SNR begins at thousands: a step from there to 150 is a long one, and the next a short one."""
    sigmas = [4500.0, 150.0, 50.0, 20.0, 8.0, 3.0, 0.0]
    plain, multistep = step_weights(sigmas, False), step_weights(sigmas, True)
    width = [math.log(at / after) for at, after in pairwise(sigmas[:-1])]
    assert multistep[0] == pytest.approx(plain[0] + plain[1] * width[1] / (2 * width[0]))
    assert step_shares(sigmas, False, multistep=True)[1].weight == pytest.approx(
        (1 / 50 - 1 / 150) * (1 + width[1] / (2 * width[0])) - (1 / 20 - 1 / 50) * width[2] / (2 * width[1])
    )


def test_across_fresh_noise_a_plan_goes_by_distance_and_not_by_what_a_step_takes():
    coming = to_come(falling(20))
    lighter = [replace(one, weight=one.weight / 2) for one in coming]
    assert planned_nearness(lighter, 10) == pytest.approx(planned_nearness(coming, 10) + 20 * math.log10(2), abs=1e-6)
    assert planned_nearness(lighter, 10, True) == pytest.approx(planned_nearness(coming, 10, True))


@pytest.mark.parametrize(("calls", "expected"), [(1, 1), (2, 2), (3, 3)])
def test_calls_of_a_step_are_learned(calls, expected):
    sigmas = falling(10)
    schedule = EvaluationSchedule(sigmas, False, False, 1, 1)
    for step in range(3):
        for call in range(calls):
            schedule.arrive(sigmas[step] * (sigmas[step + 1] / sigmas[step]) ** (call / calls))
    assert schedule.calls_per_step == expected
    assert len(schedule.coming()) == 1 + 6 * expected + 1


@pytest.mark.parametrize("sigmas", [[0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.5], [5.0, 5.0]])
def test_odd_schedules_have_weights(sigmas):
    for multistep in (False, True):
        assert all(math.isfinite(weight) for weight in step_weights(sigmas, multistep))
        assert len(step_shares(sigmas, False, multistep)) == len(sigmas) - 1


@pytest.mark.parametrize(
    ("name", "value"), [("compute", 1.1), ("compute", -0.1), ("first_steps", 0), ("most_skips", 0)]
)
def test_settings_outside_of_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        ForecastSettings(**{name: value})


@pytest.mark.parametrize("compute", [0.3, 0.5, 0.6, 0.75])
def test_evaluations_that_nobody_can_count_beforehand_meet_the_budget_at_any_time(compute):
    sigmas = [14.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.0]
    schedule = EvaluationSchedule(sigmas, False, False, 3, 1, open_ended=True)
    controller = BudgetController(ForecastSettings(compute))
    for number in range(60):  # ten in each step, and some at levels that were passed before
        schedule.arrive(14.0 * 0.93 ** (number - 2 * (number % 7 == 6)))
        coming = schedule.coming()
        assert len(coming) == 1
        if controller.next_is_real(coming):
            controller.spend(schedule.place)
            controller.learn(0.01)
        else:
            controller.skip(coming[0])
        if number < 3:
            assert controller.skipped == 0
        elif number > 12:
            assert abs(controller.real - compute * (number + 1)) <= 1.0


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 14, 20])
def test_dpm_fast_evaluates_as_often_as_there_are_steps_at_falling_levels(steps):
    sigmas = [14.0 * 0.8**number for number in range(steps)] + [0.0]
    levels = levels_of_dpm_fast(sigmas)
    assert len(levels) == steps + 1
    assert levels[0] == 14.0
    assert levels[-1] == pytest.approx(sigmas[-2])
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("compute", [0.5, 0.6, 0.7])
@pytest.mark.parametrize("steps", [12, 14, 20])
def test_a_sampler_that_ends_its_steps_where_the_next_begins_meets_the_budget_too(steps, compute):
    sigmas = falling(steps)
    levels = [sigmas[0], *(sigma for sigma in sigmas[1:-1] for _ in range(2))]  # heun; its last step is euler's
    schedule, controller = EvaluationSchedule(sigmas, False, False, 3, 1), BudgetController(ForecastSettings(compute))
    for sigma in levels:
        schedule.arrive(sigma)
        if controller.next_is_real(schedule.coming()):
            controller.spend(schedule.place)
            controller.learn(0.01)
        else:
            controller.skip(schedule.coming()[0])
    assert controller.real + controller.skipped == len(levels) == 2 * steps - 1
    assert abs(controller.real - compute * len(levels)) <= 0.5
