"""A run's record: sums, shares, what may be compared with what, and how it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.distance import Distance
from report.record import Evaluation, PlaceRecord, RunRecord, Tally, Wording, over_progress, with_forecasts
from report.speed import Measured, compare
from report.text import describe_run, headline


def place(name: str, group: str, side: int, *spent: tuple[float, Tally], why: str = "") -> PlaceRecord:
    return PlaceRecord(name, group, (side, side), tuple(spent), why)


WORDING = Wording("AT-EDM", place="block", kept="kept", part="attention block", unpruned="prune_ratio 0")
WHOLE_CALL = Tally(2, 0, 200, 200, 1000, 1000)
PRUNED_CALL = Tally(2, 2, 200, 50, 1000, 400)


def a_run(seconds: float = 3.0, steps: int = 2, second: Tally = PRUNED_CALL) -> RunRecord:
    places = (
        place("input 7", "quarter level", 5, (0.1, second), (0.6, second)),
        place("input 4", "half level", 10, (0.1, WHOLE_CALL), (0.6, second), why="spared in the first 30%"),
    )
    settings = (("prune_ratio", "0.75"),)
    return RunRecord(
        WORDING, "a model", settings, steps, seconds, 1, 2, (20, 20), places, other_flops=4000, planned=0.45
    )


def test_shares_are_of_everything_that_ran() -> None:
    run = a_run()
    assert run.spent.kept_share == pytest.approx(350 / 800)
    assert run.spent.saved_share == pytest.approx(1800 / 4000)
    assert run.model_saved_share == pytest.approx(1800 / 8000)
    assert run.ideal_speed_up == pytest.approx(8000 / 6200)
    assert run.seconds_per_step == 1.5


def test_progress_sums_over_places() -> None:
    (early, first), (late, second) = over_progress(a_run().places)
    assert (early, late) == (0.1, 0.6)
    assert first.kept_share == pytest.approx(250 / 400)
    assert second.kept_share == pytest.approx(100 / 400)
    assert first + second == a_run().spent


def test_the_finer_grid_comes_first() -> None:
    assert [name for name, _ in a_run().groups()] == ["half level", "quarter level"]


def test_a_run_without_a_call_divides_by_nothing() -> None:
    empty = replace(a_run(), places=(place("input 4", "half level", 10),), other_flops=0, steps=0, conditions=0)
    assert (empty.spent.kept_share, empty.model_saved_share, empty.seconds_per_step) == (1.0, 0.0, 0.0)
    assert not empty.pruned
    assert "nothing was left out" in describe_run(empty)


def test_only_equal_work_is_compared() -> None:
    whole = a_run(second=WHOLE_CALL)
    assert a_run().is_like(whole)
    # a run in which no attention block was watched does not know how many conditions there were
    assert a_run().is_like(replace(whole, conditions=0))
    for other in (
        {"latent": (24, 20)},
        {"steps": 3},
        {"samples": 2},
        {"work": ("cfg 1.0",)},
        {"model": "another model"},
    ):
        assert not a_run().is_like(replace(whole, **other)), other  # type: ignore[arg-type]


def test_the_text_names_every_number() -> None:
    text = describe_run(a_run(), Measured(1.5, 1.4, 1.7, 3, 4), [("result", Distance(31.25, 0.9512))])
    assert headline(a_run()) == text.splitlines()[0]
    for said in (
        "43.8% of tokens kept",
        "45.0% saved, 45.0% planned",
        "22.5% saved",
        "1.29x predicted",
        "1.50x measured (1.40x to 1.70x in single runs; 3 runs and 4 with prune_ratio 0, without their first steps)",
        "result: PSNR 31.2 dB, SSIM 0.951 from the reference",
    ):
        assert said in text, said
    assert "1 of 2 calls: spared in the first 30%" in text
    assert "not enough runs to say: run the same 3 times, and 3 times with prune_ratio 0" in describe_run(a_run())


def test_what_matters_stands_first() -> None:
    text = describe_run(a_run(), Measured(1.5, 1.4, 1.7, 3, 4), [("result", Distance(31.25, 0.9512))])
    places = [text.index(f"\n{name:<8}") for name in ("speed", "away", "time", "run", "FLOPs")]
    assert places == sorted(places)


STEPWISE = Wording("CAT Pruning", "step", "computed", part="", unpruned="keep_ratio 1", in_sequence=True)


def a_stepwise_run(*spent: Tally, why: str = "to warm up") -> RunRecord:
    places = tuple(
        place(f"step {number}", "steps", 10, (number / 10, one), why="" if one.pruned_calls else why)
        for number, one in enumerate(spent, 1)
    )
    return RunRecord(STEPWISE, "a model", (), len(spent), 2.0, 1, 2, (20, 20), places, planned=0.4)


def test_steps_that_did_alike_are_one_row() -> None:
    run = a_stepwise_run(WHOLE_CALL, WHOLE_CALL, PRUNED_CALL, PRUNED_CALL, PRUNED_CALL, WHOLE_CALL)
    ((group, rows),) = run.rows()
    assert group == "steps"
    assert [row.name for row in rows] == ["step 1 to 2", "step 3 to 5", "step 6"]
    assert sum((row.spent for row in rows), Tally()) == run.spent
    assert [at for at, _ in rows[1].timeline] == [0.3, 0.4, 0.5]
    assert run.groups()[0][1] == run.places
    assert a_run().rows() == a_run().groups(), "blocks stay what they are"


def test_steps_with_other_reasons_or_without_a_call_stay_apart() -> None:
    first, second = a_stepwise_run(WHOLE_CALL), a_stepwise_run(WHOLE_CALL, why="to refresh")
    never = replace(first.places[0], timeline=(), whole_because="not asked")
    run = replace(first, places=(first.places[0], replace(second.places[0], name="step 2"), never))
    assert len(run.rows()[0][1]) == 3


def test_calls_of_steps_add_up_and_those_of_blocks_do_not() -> None:
    assert a_stepwise_run(WHOLE_CALL, PRUNED_CALL).calls == 4
    assert a_run().calls == 4
    assert "2 model calls for each of 2 conditions" in describe_run(a_stepwise_run(WHOLE_CALL, PRUNED_CALL))
    assert "4 model calls for 1 condition" in describe_run(replace(a_run(), conditions=1))


def test_a_method_without_a_part_speaks_of_the_whole_model_only() -> None:
    text = describe_run(a_stepwise_run(WHOLE_CALL, PRUNED_CALL))
    assert text.startswith("CAT Pruning: 62.5% of tokens computed, 30.0% of the model's FLOPs saved\n")
    assert "30.0% saved, 40.0% planned" in text
    assert "with keep_ratio 1" in text
    assert "block" not in text
    assert "step 1 " in text


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6))
def test_tallies_add_up_in_any_order(pairs: list[tuple[int, int]]) -> None:
    tallies = [Tally(tokens=a + b, kept=a) for a, b in pairs]
    total = sum(tallies, Tally())
    assert total == sum(reversed(tallies), Tally())
    assert 0.0 <= total.kept_share <= 1.0


FORECAST = Wording("Step Forecast", "step", "computed", part="", unpruned="compute 1", in_sequence=True)


def a_forecast_run(real: str = "++-+-+") -> RunRecord:
    asked = tuple(
        Evaluation(step, step / len(real), one == "+", 0.02, 0.01 * (step + 1) if one == "+" and step > 1 else None)
        for step, one in enumerate(real)
    )
    return RunRecord(FORECAST, "a model", (("compute", "0.6"),), len(real), 3.0, 1, 1, (20, 20), (), evaluations=asked)


def test_forecasts_are_told_in_evaluations_and_errors() -> None:
    run = a_forecast_run()
    assert run.pruned
    assert run.saved_share == pytest.approx(1 / 3)
    assert run.ideal_speed_up == pytest.approx(1.5)
    text = describe_run(run)
    assert text.startswith("Step Forecast: 66.7% of evaluations real, 33.3% of the model's FLOPs saved\n")
    assert "4 of 6 evaluations, 2 forecast; a forecast was off by 5.00% (median), 6.00% at most" in text
    assert "token" not in text
    assert not a_forecast_run("++++").pruned


def test_tokens_and_forecasts_together_multiply() -> None:
    both = with_forecasts(a_run(), a_forecast_run())
    assert both.saved_share == pytest.approx(1 - (1 - a_run().model_saved_share) * 2 / 3)
    text = describe_run(both)
    assert "66.7% of evaluations real, 43.8% of tokens kept" in text.splitlines()[0]
    assert "with prune_ratio 0 and compute 1" in text


def timed_runs(*totals: float, steps: int = 3, first: float = 50.0) -> list[RunRecord]:
    """Runs whose steps after the first share so many seconds, a third in the second step and the rest in the last."""
    return [replace(a_run(steps=steps), step_seconds=(first, total / 3, 2 * total / 3)) for total in totals]


def test_a_speed_up_is_measured_over_several_runs_of_both_kinds_without_their_warm_up() -> None:
    measured = compare(timed_runs(2.0, 1.9, 9.0), timed_runs(3.0, 3.2, 2.9, 30.0, first=0.1))
    assert measured is not None
    assert measured.speed_up == pytest.approx(3.1 / 2.0), "one slow run of either kind does not decide"
    assert (measured.low, measured.high) == (pytest.approx(2.9 / 9.0), pytest.approx(30.0 / 1.9))
    assert (measured.runs, measured.baselines) == (3, 4)


def test_too_few_or_untimed_runs_measure_nothing() -> None:
    enough = timed_runs(1.0, 1.0, 1.0)
    assert compare(enough[:2], enough) is None
    assert compare(enough, enough[:2]) is None
    assert compare(enough, [replace(run, step_seconds=()) for run in enough]) is None
    assert compare(enough, [replace(run, steps=4) for run in enough]) is None, "interrupted, or steps without a call"
