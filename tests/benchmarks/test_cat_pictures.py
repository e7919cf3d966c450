"""The lab that compares CAT Pruning with its controls: keys, controls, costs, tables, and going on after a stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.pack.atedm_core.dit.selection import CATSelection, TokenSelector
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.lab.captions import batch
from benchmarks.lab.cases import Row, Sampling
from benchmarks.lab.dit import cat_fidelity, catalogue, controls, report
from benchmarks.lab.dit.cases import CATCase, CATPruning
from benchmarks.lab.dit.session import Session
from benchmarks.lab.summary import Measured
from demo.transformer_store import TransformerConfig, write

STEPS = Sampling(steps=6)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, comfyui: None) -> Path:
    """A tiny transformer with random weights that answers something."""
    from demo.transformer import build_sd3, reset

    config = TransformerConfig(heads=1, blocks=2)
    model = build_sd3(config).diffusion_model
    reset(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "adaLN" in name or name == "final_layer.linear.weight":
                weight.normal_(0, 0.1, generator=generator)
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write(file, config, model.state_dict(), {"steps": 0})
    return file


@pytest.fixture(scope="module")
def session(weights: Path) -> Session:
    return Session.open(weights)


def selector(kind: str, keep: float = 0.25) -> Any:
    made = controls.selector(kind, TokenSelector)(CATSelection(keep_ratio=keep), (4, 4))
    generator = torch.Generator().manual_seed(2)
    for number in range(3):
        made.observe(torch.randn(2, 16, 8, generator=generator), full=number < 2)
    return made


@pytest.mark.parametrize("kind", controls.CONTROLS)
def test_a_control_keeps_as_many_tokens_in_ascending_order(kind: str) -> None:
    chosen = selector(kind).choose()
    assert chosen.shape == (2, 4)
    assert (chosen.diff(dim=1) > 0).all()


def test_random_tokens_change_from_step_to_step_and_are_the_same_in_every_run() -> None:
    one, other = selector("random"), selector("random")
    first, second = one.choose(), one.choose()
    assert not torch.equal(first, second)
    assert torch.equal(first, other.choose())


def test_the_largest_changes_are_taken() -> None:
    made = controls.selector("largest change", TokenSelector)(CATSelection(keep_ratio=0.25), (4, 4))
    still = torch.zeros(1, 16, 8)
    moved = still.clone()
    moved[0, [2, 3, 11, 15]] = 1.0
    for noise in (still, moved):
        made.observe(noise, full=True)
    assert made.choose().tolist() == [[2, 3, 11, 15]]


def test_without_a_control_the_packs_own_chooses_and_an_unknown_one_is_refused() -> None:
    assert controls.selector(None, TokenSelector) is TokenSelector
    with pytest.raises(ValueError, match="control is 'best'"):
        controls.selector("best", TokenSelector)


def test_keys_tell_cases_apart() -> None:
    cases = {row.case for rows in catalogue.build().values() for row in rows}
    assert len({case.key for case in cases}) == len(cases)


def test_rows_of_a_table_differ_in_name_and_share_captions() -> None:
    for name, rows in catalogue.build("confirm", 8).items():
        assert len({row.name for row in rows}) == len(rows), name
        assert {(row.captions, row.count) for row in rows} == {("confirm", 8)}


def test_methods_and_options_are_compared_at_equal_cost() -> None:
    for group in (catalogue.METHODS, catalogue.OPTIONS):
        spent = {(one.selection.keep_ratio, one.schedule) for one in group.values()}
        assert len(spent) == 1


def test_cost_is_what_pytorch_counts(session: Session) -> None:
    counter = FlopCounterMode(display=False)
    model = session.model.model.diffusion_model
    inputs = torch.randn(1, 4, 32, 32), torch.tensor([500.0])
    with counter, torch.no_grad():
        model(*inputs, context=torch.randn(1, 16, 128), y=torch.randn(1, 64))
    from benchmarks.pack.atedm_core.dit.flops import transformer_flops

    # the fused attention of the CPU is not counted
    structure = replace(session.structure(), joint_attentions=0)
    assert transformer_flops(structure, 256, 16) == counter.get_total_flops()


def test_pruned_pictures_cost_less_and_are_others(session: Session) -> None:
    captions = batch("choose", 0)[:2]
    full, pruned, again, held = (
        session.draw(case, captions)
        for case in (CATCase(STEPS), CATCase(STEPS, CATPruning()), CATCase(STEPS, CATPruning()), CATCase(STEPS, held=4))
    )
    assert full.info["calls"] == pruned.info["calls"] == 6
    assert held.info["calls"] == 4
    assert held.info["flops"] < pruned.info["flops"] < full.info["flops"]
    assert np.array_equal(pruned.latents, again.latents)
    assert not np.array_equal(pruned.latents, full.latents)


def test_a_velocity_held_is_one_long_step(session: Session) -> None:
    """Euler with a velocity that stays goes along a straight line, in however many steps."""
    captions = batch("choose", 0)[:1]
    kept = CATPruning(CATSelection(keep_ratio=1 / 256))
    nearly = session.draw(CATCase(STEPS, kept), captions).latents
    held = session.draw(CATCase(STEPS, held=4), captions).latents
    # one token of 256 is still computed at each of two steps: 2 x 2 latent pixels each
    assert (np.abs(nearly - held) < 1e-4).mean() > 0.97


def measured(name: str, psnr: list[float], share: float, steps: int = 20, fewer: bool = False) -> Measured:
    case = CATCase(Sampling(steps)) if fewer else CATCase(Sampling(20), CATPruning())
    row = Row("g", name, case, count=len(psnr), against=Sampling(20) if fewer else None)
    rest = {"ssim": 1.0, "latent_error": 0.1, "same_scene": True, "right": True, "reference_right": True}
    return Measured(row, [{"psnr": value, "share": share, **rest} for value in psnr])


def test_lines_compare_with_round_robin_and_with_fewer_steps_at_equal_cost() -> None:
    cat, robin = measured("cat", [30.0, 31.0, 29.0], 0.6), measured("round robin", [29.0, 33.0, 28.5], 0.6)
    fewer = [measured("10 steps", [20.0] * 3, 0.5, 10, True), measured("14 steps", [40.0] * 3, 0.7, 14, True)]
    first, second, *rest = report.lines([cat, robin, *fewer])
    assert first["against_round_robin"] == {"psnr": 29.0, "median": 0.5, "better": 2}
    assert "against_round_robin" not in second
    assert first["against_fewer_steps"] == pytest.approx({"psnr": 30.0, "median": 0.0, "better": 1})
    table = report.table({"shapes": [first, second, *rest]})
    assert "10 steps" not in table
    assert "+0.5 (2 of 3)" in table


def test_subjects_stand_side_by_side() -> None:
    fewer = measured("10 steps", [20.0] * 3, 0.5, 10, True)
    shapes, photographs = (
        report.lines([measured("cat", psnr, 0.5), fewer]) for psnr in ([30.0, 31.0, 29.0], [25.0, 19.0, 22.0])
    )
    table = report.table({"shapes": shapes, "photographs": photographs})
    head, _, row, *_ = table.splitlines()
    assert [cell.strip() for cell in head.split("|")][2:-1] == [
        "FLOPs",
        *("shapes: PSNR, dB", "latent error", "to fewer steps, dB"),
        *("photographs: PSNR, dB", "latent error", "to fewer steps, dB"),
    ]
    cells = [cell.strip() for cell in row.split("|")][1:-1]
    assert cells == ["cat", "50%", "30.0", "0.100", "+10.0 (3 of 3)", "22.0", "0.100", "+2.0 (2 of 3)"]
    assert "Photographs: 3 captions" in table


def test_each_subject_is_drawn_in_a_folder_of_its_own(weights: Path, tmp_path: Path) -> None:
    arguments = ["--groups", "cat euler_ancestral 12 steps", "--captions", "1", "--weights", str(weights)]
    for subject in ("shapes", "photographs"):
        assert cat_fidelity.main([*arguments, "--out", str(tmp_path), "--subject", subject]) == 0
    of_shapes, of_photographs = (
        [json.loads(line)["spot"] for line in (tmp_path / subject / "measures-0.jsonl").read_text().splitlines()]
        for subject in ("shapes", "photographs")
    )
    assert {one["captions"] for one in of_shapes} == {"choose"}
    assert {one["captions"] for one in of_photographs} == {"photographs, choose"}
    assert {one["case"] for one in of_shapes} == {one["case"] for one in of_photographs}


def test_the_command_goes_on_where_it_stopped(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--groups", "cat 8 steps", "--captions", "4", "--weights", str(weights)]
    arguments += ["--out", str(tmp_path)]
    assert cat_fidelity.main(arguments) == 0
    first = capsys.readouterr().out
    assert "velocity held after the warm-up" in first
    [file] = (tmp_path / "shapes").glob("measures-*.jsonl")
    lines = file.read_text().splitlines()
    keys = {json.loads(line)["spot"]["case"] for line in lines}
    assert len(keys) == len(lines)
    file.write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:40])  # cut off while writing
    drawn = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert cat_fidelity.main(arguments) == 0
    assert capsys.readouterr().out[-200:] == first[-200:]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == drawn


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--part", "2/2"], "'2/2': give I/N with I from 0 to N - 1"),
        (["--part", "one"], "'one': give I/N"),
        (["--weights", "nowhere.safetensors"], "--weights is nowhere.safetensors: there is no such file"),
        (["--captions", "0"], "--captions is 0: give 1 to"),
        (["--groups", "nonsense"], "no group is called nonsense: choose from cat 8 steps"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_loaded(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cat_fidelity.parse(arguments)
    assert said in capsys.readouterr().err


def test_a_part_is_read_as_it_is_given() -> None:
    assert cat_fidelity.parse(["--part", "1/4"]).part == (1, 4)
    assert cat_fidelity.parse([]).part == (0, 1)


def test_the_document_says_what_the_results_say() -> None:
    text = report.DOCUMENT.read_text(encoding="utf-8")
    saved = report.saved()
    assert len(saved) == text.count("<!-- table ") > 0
    for name, found in saved.items():
        shown = text.split(f"<!-- table {name} -->", 1)[1].split("<!-- end -->", 1)[0].strip()
        assert shown == report.table(found)
    assert text.count("<!-- table ") == text.count("<!-- end -->") > 0
