"""Which steps compute all tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atedm_core.dit.schedule import CATSchedule, settled_steps, step_at


def full_steps(schedule: CATSchedule, steps: int) -> list[int]:
    return [step for step in range(steps) if schedule.is_full(step, steps)]


def test_the_default_at_28_steps_is_the_papers():
    assert full_steps(CATSchedule(), 28) == list(range(8))
    assert CATSchedule().pruned_steps(28) == 20


def test_refreshes_and_last_steps_are_full():
    schedule = CATSchedule(0.25, 2, refresh_interval=4, last_full_steps=2)
    assert full_steps(schedule, 20) == [0, 1, 2, 3, 4, 7, 11, 15, 18, 19]


def test_refreshes_are_counted_back_from_the_last_step_that_finds_noise():
    schedule = CATSchedule(0.1, 3, refresh_interval=3, settled_steps=1)
    assert full_steps(schedule, 20) == [0, 1, 2, 3, 6, 9, 12, 15, 18]
    assert full_steps(replace(schedule, settled_steps=0), 20) == [0, 1, 2, 4, 7, 10, 13, 16, 19]
    assert full_steps(replace(schedule, settled_steps=8), 20) == [0, 1, 2, 5, 8, 11, 14, 17]


def test_a_step_is_settled_where_a_twentieth_of_noise_is_left():
    assert settled_steps([1.0, 0.5, 0.15, 0.009, 0.0], flow=True) == 1
    assert settled_steps([1.0, 0.5, 0.15, 0.0], flow=True) == 0
    assert settled_steps([14.6, 1.0, 0.06, 0.04, 0.03, 0.0], flow=False) == 2
    assert settled_steps([0.01, 0.5, 0.02, 0.0], flow=True) == 1, "and not at the beginning of a run backwards"
    assert settled_steps([0.0], flow=True) == settled_steps([], flow=False) == 0


def test_a_refresh_at_every_step_prunes_nothing():
    assert CATSchedule(refresh_interval=1).pruned_steps(28) == 0


def test_too_short_a_run_is_full():
    assert CATSchedule(least_full_steps=4).pruned_steps(4) == 0
    assert CATSchedule(least_full_steps=4).pruned_steps(5) == 1


def test_what_is_kept_for_later_comes_from_the_step_before_a_pruned_one():
    schedule = CATSchedule(0.25, 2, refresh_interval=4, last_full_steps=2)
    assert [step for step in range(20) if schedule.full_before_pruned(step, 20)] == [4, 7, 11, 15]


@given(st.floats(0, 1), st.integers(2, 10), st.integers(0, 6), st.integers(0, 6), st.integers(1, 40))
def test_every_pruned_step_comes_after_two_full_ones(warmup, least, refresh, last, steps):
    schedule = CATSchedule(warmup, least, refresh, last)
    full = full_steps(schedule, steps)
    assert full[: min(2, steps)] == list(range(min(2, steps)))
    assert schedule.pruned_steps(steps) == steps - len(full)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20, unique=True))
def test_a_level_of_the_schedule_starts_its_own_step(levels):
    spread = [level * 1.001**place for place, level in enumerate(sorted(levels))]
    sigmas = [*reversed(spread), 0.0]
    assert [step_at(sigma, sigmas) for sigma in sigmas[:-1]] == list(range(len(levels)))


def test_levels_between_belong_to_the_step_before_and_stray_ones_to_the_first():
    sigmas = [10.0, 5.0, 1.0, 0.0]
    assert [step_at(sigma, sigmas) for sigma in (12.0, 10.0, 7.0, 5.0, 4.9999, 0.5, 0.0)] == [0, 0, 0, 1, 1, 2, 2]
    assert step_at(1.0, [1.0]) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"warmup": -0.1}, {"warmup": 1.5}, {"least_full_steps": 1}, {"refresh_interval": -1}, {"last_full_steps": -2}],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        CATSchedule(**wrong)
