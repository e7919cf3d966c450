"""A run's record: sums, shares, what may be compared with what, and how it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.record import PlaceRecord, RunRecord, Tally, Wording, over_progress
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
    assert "nothing was pruned" in describe_run(empty)


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
    text = describe_run(a_run(), a_run(4.5, second=WHOLE_CALL))
    assert headline(a_run()) == text.splitlines()[0]
    for said in (
        "43.8% of tokens kept",
        "45.0% saved, 45.0% planned",
        "22.5% saved",
        "1.29x predicted",
        "1.50x measured",
    ):
        assert said in text, said
    assert "1 of 2 calls: spared in the first 30%" in text
    assert "the same with prune_ratio 0 took 2.250 s a step" in text
    assert "to measure it" in describe_run(a_run())


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
