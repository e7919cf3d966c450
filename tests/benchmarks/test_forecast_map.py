"""The map of who is nearest: rows that are kept, cells that they make, and what is said of them."""

from __future__ import annotations

import json

import pytest

from benchmarks.lab.unet.contenders import COSTS, PEERS, ratio_at, sdxl_share
from benchmarks.lab.unet.forecast_rows import Rows
from benchmarks.lab.unet.nearest import best, cells, summary, table

CONFIRM = "photographs, confirm"


def row(method: str, psnr: float, share: float, setting: float = 1.0, steps: int = 20, **more) -> dict:
    place = {"captions": CONFIRM, "sampler": "euler", "steps": steps, **more}
    key = json.dumps([*place.values(), method, setting])
    return {"key": key, **place, "method": method, "setting": setting, "share": share, "psnr": [psnr - 1, psnr + 1]}


@pytest.fixture
def places(tmp_path):
    result, own = tmp_path / "result.json", tmp_path / "out" / "rows.jsonl"
    result.write_text(json.dumps({"rows": [row("auto", 40, 0.5), row("fewer steps", 30, 0.5)]}))
    return result, own


def values(rows: Rows) -> dict[str, float]:
    return {one["method"]: sum(one["psnr"]) / 2 for one in rows.all()}


def test_results_of_elsewhere_are_there_without_any_of_this_machine(places):
    rows = Rows(*places)
    assert values(rows) == {"auto": 40, "fewer steps": 30}
    assert row("auto", 0, 0)["key"] in rows


def test_a_row_measured_anew_takes_the_place_of_the_old_one_for_good(places):
    Rows(*places).add(row("auto", 45, 0.5))
    assert values(Rows(*places)) == {"auto": 45, "fewer steps": 30}


def test_a_row_that_was_measured_elsewhere_later_is_not_replaced_by_an_older_one_of_here(places):
    result, own = places
    Rows(result, own).add(row("auto", 45, 0.5))
    result.write_text(json.dumps({"rows": [{**row("auto", 50, 0.5), "when": 9e9}]}))
    assert values(Rows(result, own)) == {"auto": 50}


def test_what_is_asked_again_is_due_once_and_kept_until_it_is_measured(places):
    rows = Rows(*places)
    rows.ask_again(["auto"], [(CONFIRM, "euler", 20)], [("auto", 1.0)])
    assert row("auto", 0, 0)["key"] not in rows
    assert row("fewer steps", 0, 0)["key"] in rows
    after = Rows(*places)  # an interruption
    assert row("auto", 0, 0)["key"] not in after
    assert values(after)["auto"] == 40
    after.add(row("auto", 41, 0.5))
    assert row("auto", 0, 0)["key"] in Rows(*places)
    assert values(Rows(*places))["auto"] == 41


def test_other_cells_are_not_asked_again_and_settings_that_are_no_more_go(places):
    rows = Rows(*places)
    rows.ask_again(["auto"], [(CONFIRM, "euler", 50)], [("auto", 1.0)])
    assert row("auto", 0, 0)["key"] in rows
    rows.ask_again(["auto"], [(CONFIRM, "euler", 20)], [("auto", 2.0)])
    assert values(Rows(*places)) == {"fewer steps": 30}


def test_a_line_that_an_interruption_cut_off_is_passed_over(places):
    result, own = places
    Rows(result, own).add(row("auto", 45, 0.5))
    own.write_text(own.read_text() + '{"key": "half')
    assert values(Rows(result, own))["auto"] == 45


def test_the_nearest_setting_within_the_cost_counts_and_half_an_evaluation_is_granted_to_whole_ones():
    rows = [row("forecasts", 50, 0.60, 1), row("forecasts", 40, 0.55, 2), row("auto", 60, 0.52, 1)]
    assert best(rows, "forecasts", 20, 0.6).psnr == 50
    assert best(rows, "forecasts", 20, 0.525).psnr == 40
    assert best(rows, "forecasts", 20, 0.5) is None
    assert best(rows, "auto", 20, 0.5) is None
    assert best(rows, "auto", 20, 0.52).share == 0.52


def test_median_over_captions_of_all_batches():
    assert best([row("auto", 40, 0.5), {**row("auto", 60, 0.5), "key": "other"}], "auto", 20, 0.5).psnr == 50


def test_the_summary_counts_what_the_rows_say():
    rows = []
    for steps, auto, fewer, peer in ((8, 30, 32, 20), (20, 50, 40, 45), (30, 60, 45, 57)):
        for cost in COSTS:
            rows.append(row("auto", auto, cost, cost, steps))
            rows.append(row("fewer steps", fewer, cost, cost, steps))
            rows.append(row("spectrum", peer, cost, cost, steps))
    said = summary(cells(rows), "confirm")
    assert "Of 15 cells" in said
    assert "in 10 (67%)" in said
    assert "worst -2.0 dB (euler, 8 steps" in said
    assert "further by over 1 dB in 5" in said
    assert "nearer by 12.5 dB in the median over the 10" in said
    assert "nearer by 4.0 dB in the median over the 10" in said
    assert "nothing but fewer steps" not in said
    assert "No cell" in summary(cells(rows), "choose")
    without = [one for one in rows if one["method"] != "spectrum" or one["steps"] > 8]
    assert "In 5 of them nothing but fewer steps stands beside it." in summary(cells(without), "confirm")
    assert table(cells(rows)).count("\n") == 16


def test_peers_are_others_and_pruning_is_asked_at_the_costs_themselves():
    assert not set(PEERS) & {"auto", "forecasts", "AT-EDM", "fewer steps"}
    for cost in (0.75, 0.6):
        ratio = ratio_at(cost)
        assert ratio is not None
        assert cost - 2e-3 < sdxl_share(ratio) <= cost
    assert ratio_at(0.3) is None


def test_what_the_pack_did_before_is_marked():
    new = {**row("auto", 50, 0.5), "when": 1}
    assert str(best([new], "auto", 20, 0.5)) == "50.0 (50%)"
    assert str(best([row("auto", 50, 0.5)], "auto", 20, 0.5)) == "50.0 (50%)°"
    assert str(best([row("fewer steps", 50, 0.5)], "fewer steps", 20, 0.5)) == "50.0 (50%)"
