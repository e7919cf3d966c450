"""The fidelity lab's own machinery: keys, captions, controls, measures, storage, tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.pack.atedm_core.unet.flops import unet_flops
from benchmarks.pack.atedm_core.unet.ranking import LayerAttention, rank_tokens
from benchmarks.pack.atedm_core.unet.schedule import DSAPSchedule
from benchmarks.pack.atedm_core.unet.settings import PAPER_SETTINGS, PruneSettings

from benchmarks.lab import captions, measures
from benchmarks.lab.cases import Row, Sampling
from benchmarks.lab.document import insert
from benchmarks.lab.drawing import Drawn, Trajectory
from benchmarks.lab.store import Spot, Store
from benchmarks.lab.summary import Measured, fewer_steps_at
from benchmarks.lab.sweep import missing, step_errors
from benchmarks.lab.unet import catalogue, controls, flops, report, tables
from benchmarks.lab.unet.cases import SDXL_SCHEDULE, Case, Pruning
from benchmarks.lab.unet.summary import lines, step_map
from demo.photographs.scenes import PhotoScene
from demo.photographs.scenes import is_held_out as is_held_out_photo
from demo.scenes import Scene, draw, is_held_out
from devtools.layout import ROOT

ATTENDING = PruneSettings(ranking="self-attention")

PROGRESS = [number / 20 for number in range(20)]
SCENE = Scene("circle", "red", "center", "large", "blue")


def groups() -> dict[str, list[Row]]:
    return catalogue.build(lambda sampling: PROGRESS, catalogue.Sizes())


def test_captions_to_choose_and_to_confirm_by_share_nothing_and_were_never_trained_on() -> None:
    count = captions.batches(captions.LARGEST_SET)
    sets = [[one for i in range(count) for one in captions.batch(name, i)] for name in captions.FIRST_SEED]
    assert {len(found) for found in sets} == {captions.LARGEST_SET}
    for part in ("scene", "seed"):
        assert len({getattr(one, part) for found in sets for one in found}) == len(sets) * captions.LARGEST_SET
    for one in (one for found in sets for one in found):
        photo = isinstance(one.scene, PhotoScene)
        parts = ("kind", "size", "place") if photo else ("shape", "colour", "place")
        held_out = is_held_out_photo if photo else is_held_out
        assert held_out(*(getattr(one.scene, part) for part in parts))


def test_a_set_has_its_like_on_the_other_subject() -> None:
    assert captions.on_subject("confirm", "photographs") == "photographs, confirm"
    assert captions.on_subject("photographs, choose", "shapes") == "choose"
    assert captions.subject_of("photographs, choose") == "photographs"


def test_precision_is_part_of_a_key_and_float32_goes_without_saying() -> None:
    assert Case(Sampling(dtype="float32")).key == Case().key != Case(Sampling(dtype="float16")).key


def test_the_perceptual_distance_sees_a_lost_edge_and_no_change_of_brightness() -> None:
    picture = draw(SCENE)
    brighter = np.clip(picture.astype(int) + 8, 0, 255).astype(np.uint8)
    lost = np.full_like(picture, picture[0, 0])
    assert measures.gradient_deviation(picture, picture) == 0.0
    assert measures.gradient_deviation(brighter, picture) < 0.001 < measures.gradient_deviation(lost, picture)


def test_large_pictures_are_checked_at_the_size_that_scenes_are_known_at() -> None:
    small = np.arange(256 * 256 * 3, dtype=np.uint32).reshape(256, 256, 3).astype(np.uint8)
    assert measures.at_trained_size(small) is small
    assert np.array_equal(measures.at_trained_size(small.repeat(2, 0).repeat(2, 1)), small)


def test_photographs_show_the_same_scene_where_place_and_colours_agree() -> None:
    scene = PhotoScene("lemon", None, "center", "large", "blue")
    picture = draw(replace(SCENE, colour="yellow"))
    latent = np.ones((4, 8, 8), np.float32)
    moved = draw(replace(SCENE, colour="yellow", place="upper left"))
    assert measures.compare(picture, latent, picture, latent, scene)["same_scene"]
    assert not measures.compare(moved, latent, picture, latent, scene)["same_scene"]


def test_a_key_tells_apart_what_is_run_and_nothing_else() -> None:
    cases = {row.case for rows in groups().values() for row in rows}
    assert len({case.key for case in cases}) == len(cases)
    assert Case(pruning=Pruning()).key == Case(pruning=Pruning(SDXL_SCHEDULE, PruneSettings())).key


def test_the_defaults_have_the_key_under_which_they_were_drawn() -> None:
    """A new field of the schedule or of the settings must not orphan what was measured, unless it changes it."""
    drawn = json.loads((ROOT / "benchmarks/results/fidelity/photographs/main.json").read_text(encoding="utf-8"))
    assert f'"{Case(pruning=Pruning()).key}"' in json.dumps(drawn)


def test_rows_of_a_group_have_names_of_their_own() -> None:
    for rows in groups().values():
        assert len({row.name for row in rows}) == len(rows)


def test_schedules_are_compared_at_equal_flops_on_sdxl() -> None:
    rows = [row for row in groups()["schedule"] if row.case.pruning is not None]
    shares = [flops.planned_share(row.case.pruning, PROGRESS) for row in rows if row.case.pruning]
    assert len(shares) > 5
    # the first are the defaults, whose ratio is rounded and not solved for
    assert max(shares[1:]) - min(shares[1:]) < 2e-3
    assert shares[0] == pytest.approx(shares[1], abs=5e-3)


def test_sdxl_costs_what_the_paper_says() -> None:
    assert unet_flops(flops.sdxl(), flops.SDXL_LATENT) == pytest.approx(6.761e12, rel=2e-4)


def test_a_tape_of_pruned_blocks_costs_what_the_closed_formula_says() -> None:
    pruning = Pruning(DSAPSchedule(prune_ratio=0.5, early_percent=0.0), PAPER_SETTINGS)
    names = [block.name for block in flops.sdxl().blocks]
    tape = flops.Tape(calls=[2], pruned=[flops.Pruned(name, 0.5, 0.5, 2) for name in names])
    assert flops.sdxl_flops(tape, pruning) == 2 * unet_flops(flops.sdxl(), flops.SDXL_LATENT, 0.5)


@pytest.mark.parametrize("control", controls.CONTROLS)
def test_a_control_ranks_in_the_packs_place(control: str) -> None:
    queries, keys = torch.randn(2, 2, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    attention = LayerAttention(queries, keys)
    scores = controls.ranking(control, rank_tokens)(ATTENDING, attention, (4, 4))
    assert scores.shape == (2, 16)
    assert (scores >= 0).all()
    assert (scores[0] != rank_tokens(ATTENDING, attention, (4, 4))[0]).any()


def test_another_number_of_voters_is_a_control_and_an_unknown_one_is_refused() -> None:
    queries, keys = torch.randn(2, 2, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    attention = LayerAttention(queries, keys)
    assert controls.ranking(None, rank_tokens) is rank_tokens
    few = controls.ranking("4 voters", rank_tokens)(ATTENDING, attention, (4, 4))
    assert not torch.allclose(few, rank_tokens(ATTENDING, attention, (4, 4)))
    every = controls.ranking("16 voters", rank_tokens)(ATTENDING, attention, (4, 4))
    torch.testing.assert_close(every, rank_tokens(replace(ATTENDING, voters="all"), attention, (4, 4)))
    with pytest.raises(ValueError, match="control is 'best'"):
        controls.ranking("best", rank_tokens)


def test_a_reversed_ranking_is_the_packs_own_upside_down() -> None:
    queries, keys = torch.randn(2, 1, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    attention = LayerAttention(queries, keys)
    own = rank_tokens(ATTENDING, attention, (4, 4))
    turned = controls.ranking("reversed G-WPR", rank_tokens)(ATTENDING, attention, (4, 4))
    assert torch.equal(turned.argsort(dim=1), own.argsort(dim=1, descending=True))


def test_tokens_that_are_like_their_anchor_go_first() -> None:
    keys = torch.eye(16).reshape(1, 1, 16, 16)
    keys[0, 0, 1] = keys[0, 0, 0]  # the neighbour of the first cell's anchor is its double
    rank = controls.ranking("least redundant", rank_tokens)
    scores = rank(ATTENDING, LayerAttention(keys, keys), (4, 4))[0]
    assert scores.argmin() == 1
    assert sorted(scores.topk(4).indices.tolist()) == [0, 2, 8, 10]


def test_tome_saves_nothing_without_merging_and_no_more_than_self_attention_costs() -> None:
    full = unet_flops(flops.sdxl(), flops.SDXL_LATENT)
    assert flops.sdxl_flops_with_tome(3, 0.0) == 3 * full
    assert 1.2 < full / flops.sdxl_flops_with_tome(1, 0.75) < 1.33


@pytest.mark.parametrize("edge", [4, 16])
def test_the_even_grid_is_even_at_every_power_of_two(edge: int) -> None:
    ranks = controls.bayer(edge, edge)
    assert sorted(ranks.flatten().tolist()) == list(range(edge * edge))
    quarter = ranks < edge * edge // 4
    cells = quarter.reshape(edge // 2, 2, edge // 2, 2).sum(dim=(1, 3))
    assert torch.equal(cells, torch.ones_like(cells))


def test_measures_of_equal_and_of_different_pictures() -> None:
    picture, latent = draw(SCENE), np.ones((4, 8, 8), np.float32)
    same = measures.compare(picture, latent, picture, latent, SCENE)
    assert same == {
        "psnr": measures.HIGHEST_PSNR,
        "ssim": 1.0,
        "latent_error": 0.0,
        "gmsd": 0.0,
        "same_scene": True,
        "right": True,
        "reference_right": True,
    }
    other = measures.compare(draw(replace(SCENE, colour="green")), 1.5 * latent, picture, latent, SCENE)
    assert other["psnr"] < 30
    assert other["latent_error"] == pytest.approx(0.5)
    assert (other["same_scene"], other["right"], other["reference_right"]) == (False, False, True)


def test_psnr_in_decibels() -> None:
    flat = np.full((4, 4, 3), 100, np.uint8)
    assert measures.psnr(flat, flat + 10) == pytest.approx(28.1308, abs=1e-3)


def test_step_errors_are_of_the_models_own_output() -> None:
    rng = np.random.default_rng(0)
    sigmas = np.array([4.0, 0.5], np.float32)
    latents, velocity = rng.normal(size=(2, 2, 1, 4, 2, 2))
    scale = sigmas[:, None, None, None, None]
    clean = latents / (scale**2 + 1) - velocity * scale / np.sqrt(scale**2 + 1)
    off = latents / (scale**2 + 1) - 1.25 * velocity * scale / np.sqrt(scale**2 + 1)
    found = step_errors(Trajectory(sigmas, latents, off), Trajectory(sigmas, latents, clean), 0)
    assert found == pytest.approx([0.25, 0.25], rel=1e-4)


def test_what_is_stored_is_there_again_and_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    spot = Spot("a", "b", "choose", 3)
    Store(tmp_path).add(spot, [{"psnr": 30.0}])
    with (tmp_path / "measures-0.jsonl").open("a") as file:
        file.write('{"spot": {"case": "c"')
    store = Store(tmp_path)
    assert store.measures(spot) == [{"psnr": 30.0}]
    store.add(Spot("d", "b", "choose", 3), [{"psnr": 31.0}])
    again = Store(tmp_path, worker="other")
    assert again.has(spot)
    assert again.measures(Spot("d", "b", "choose", 3)) == [{"psnr": 31.0}]


def test_pictures_are_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    store, case = Store(tmp_path), Case()
    drawn = Drawn(np.ones((4, 4, 2, 2), np.float32), np.zeros((4, 16, 16, 3), np.uint8), {"flops": 1.0})
    assert store.load(case, "choose", 0) is None
    store.keep(case, "choose", 0, drawn)
    found = store.load(case, "choose", 0)
    assert found is not None
    assert np.array_equal(found.latents, drawn.latents)
    assert (found.info, found.trajectory) == (drawn.info, None)
    (file,) = (tmp_path / "runs").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert store.load(case, "choose", 0) is None


def test_a_case_can_be_forgotten_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    gone, stays = Case(pruning=Pruning()), Case()
    for case in (gone, stays):
        store.add(Spot(case.key, "r", "choose", 0), [{}])
    store.forget([gone])
    again = Store(tmp_path)
    assert again.has(Spot(stays.key, "r", "choose", 0))
    assert not again.has(Spot(gone.key, "r", "choose", 0))


def test_workers_share_the_work_without_overlap_and_a_finished_row_is_not_run_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = groups()["selection"]
    everything = {spot for _, spot in missing(rows, store)}
    parts = [{spot for _, spot in missing(rows, store, worker, 3)} for worker in range(3)]
    assert set.union(*parts) == everything
    assert sum(len(part) for part in parts) == len(everything)
    done = next(iter(everything))
    store.add(done, [{}])
    assert {spot for _, spot in missing(rows, store)} == everything - {done}


def measured(row: Row, psnr: float, share: float) -> Measured:
    return Measured(row, [{"psnr": psnr, "same_scene": True, "share": share, "sdxl_share": share}] * 4)


def test_fewer_steps_are_interpolated_and_never_cost_more() -> None:
    full = Sampling(20)
    fewer = [
        measured(Row("g", str(steps), Case(Sampling(steps)), against=full), psnr, steps / 20)
        for steps, psnr in ((10, 30.0), (15, 40.0))
    ]
    assert fewer_steps_at(0.625, fewer) == pytest.approx([35.0] * 4)
    assert fewer_steps_at(0.99, fewer) == [40.0] * 4


def test_a_line_says_by_how_much_it_is_nearer_than_fewer_steps_at_its_flops() -> None:
    rest = {"ssim": 1.0, "gmsd": 0.0, "latent_error": 0.0, "right": True, "reference_right": True}
    full = Sampling(20)
    pruned = measured(Row("g", "pruned", Case(full, Pruning())), 0.0, 0.75)
    fewer = measured(Row("g", "fewer", Case(Sampling(15)), against=full), 30.0, 0.75)
    group = [Measured(one.row, [{**picture, **rest} for picture in one.pictures]) for one in (pruned, fewer)]
    for picture, psnr in zip(group[0].pictures, (29.0, 31.0, 33.0, 35.0), strict=True):
        picture["psnr"] = psnr
    assert lines(group)[0]["against_fewer_steps_at_sdxl_share"] == {"median": 2.0, "better": 3}
    shown = tables.table("main", {"photographs": lines(group), "shapes": []})
    assert "| +2.0 (3/4) |" in shown
    assert "photographs: GMSD" in shown
    assert "flat shapes" not in shown


def test_subjects_stand_side_by_side_and_a_case_of_one_alone_leaves_the_other_empty() -> None:
    common = {"psnr": 40.0, "psnr_quartiles": [39.0, 41.0], "gmsd": 0.01, "same_scene": 1.0, "sdxl_share": 0.5}
    common |= {"pictures": 4, "captions": "photographs, choose", "reference_right": 1.0}
    first, second = {**common, "name": "one"}, {**common, "name": "two", "psnr": 30.0}
    shown = tables.table("levels", {"photographs": [first, second], "shapes": [first]}).splitlines()
    assert [line.count("40.0 (39 to 41)") for line in shown[2:4]] == [2, 0]
    assert "4 captions of the set *choose*" in shown[-1]


def test_the_step_map_says_by_how_much_pruning_wins() -> None:
    full, fewer = Sampling(8), Sampling(6)
    group = [
        measured(Row("steps", "pruned", Case(full, Pruning())), 33.0, 0.75),
        measured(Row("steps", "fewer", Case(fewer), against=full), 30.0, 0.75),
    ]
    (line,) = step_map(group)
    assert line["own_gain"] == pytest.approx(3.0)
    assert line["own_better"] == 4


def test_tables_go_between_their_markers_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("before <!-- table main -->old<!-- end --> after", encoding="utf-8")
    insert(document, {"main": "| new |"})
    insert(document, {"main": "| newer |"})
    assert document.read_text(encoding="utf-8") == "before <!-- table main -->\n\n| newer |\n\n<!-- end --> after"
    with pytest.raises(ValueError, match="'main'"):
        insert(document, {})
    insert(document, {}, shared=True)
    assert "| newer |" in document.read_text(encoding="utf-8"), "another command's table stays"


def test_saved_tables_are_those_of_the_saved_figures(repository: Path) -> None:
    """The document and the JSON files come from one run and cannot say different things."""
    text = (repository / "docs" / "fidelity.md").read_text(encoding="utf-8")
    asked_for = re.findall(r"<!-- table (\S+) -->", text)
    for name in asked_for:
        files = {subject: report.folder_of(subject) / f"{name}.json" for subject in tables.SUBJECTS}
        found = {
            subject: json.loads(file.read_text(encoding="utf-8"))["lines"] if file.exists() else []
            for subject, file in files.items()
        }
        assert tables.table(name, found) in text
    assert len(asked_for) > 3
