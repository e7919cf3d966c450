"""The paper's table: prompts, checkpoints and measures, and everything that is refused before any picture is drawn."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_paper_table import SDXL_NAMES, Run, run, safetensors

from benchmarks.checkpoint import quality
from benchmarks.checkpoint.checkpoint import main
from benchmarks.checkpoint.checkpoint_file import inspect
from benchmarks.checkpoint.prompts import read_prompts
from demo.store import DEFAULT_FILE
from devtools.console import DevError

assert run  # the fixture

DIT_NAMES = {"joint_blocks.0.weight": [1], "first_stage_model.decoder.weight": [1]}
UNET_ONLY = {name: shape for name, shape in SDXL_NAMES.items() if name.startswith("model.")}


def written(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


class TestPrompts:
    def test_one_a_line(self, tmp_path: Path) -> None:
        file = written(tmp_path / "p.txt", "\ufeff a cat \r\n\r\nein Käse\n")
        assert read_prompts(file) == ["a cat", "ein Käse"]
        assert read_prompts(file, 1) == ["a cat"]

    def test_a_json_list(self, tmp_path: Path) -> None:
        assert read_prompts(written(tmp_path / "p.json", '["a cat", "two\\ndogs", ""]')) == ["a cat", "two dogs"]

    def test_the_first_caption_of_every_coco_image(self, tmp_path: Path) -> None:
        captions = [(9, 5, "late"), (7, 3, "c\n"), (2, 5, "first"), (8, 3, "d")]
        entries = [{"id": number, "image_id": image, "caption": text} for number, image, text in captions]
        file = written(tmp_path / "captions.json", json.dumps({"images": [], "annotations": entries}))
        assert read_prompts(file) == ["c", "first"]

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("p.txt", "a cat\nK\xe4se".encode("latin-1"), r"not UTF-8: byte 7 \(line 2\)"),
            ("p.txt", "a cat".encode("utf-16-le"), "zero bytes"),
            ("p.txt", "a cat".encode("utf-16"), r"not UTF-8: byte 0 \(line 1\)"),
            ("p.txt", " \n\n", "holds no prompt"),
            ("p.json", "[]", "holds no prompt"),
            ("p.json", "[1]", "neither a list of strings"),
            ("p.json", "{", "is not JSON"),
            ("p.json", '{"annotations": [{"id": 1, "bbox": []}]}', "no captions"),
        ],
    )
    def test_a_wrong_file_is_named_with_its_fault(
        self, tmp_path: Path, name: str, content: str | bytes, said: str
    ) -> None:
        with pytest.raises(DevError, match=rf"{name}.*{said}"):
            read_prompts(written(tmp_path / name, content))

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DevError, match=r"--prompts .*p\.txt cannot be read: No such file"):
            read_prompts(tmp_path / "p.txt")

    def test_more_than_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(DevError, match=r"--count is 3, but .* holds 2"):
            read_prompts(written(tmp_path / "p.txt", "a\nb"), 3)


class TestCheckpoints:
    def test_kinds_are_told_by_the_header(self, tmp_path: Path) -> None:
        assert inspect(safetensors(tmp_path / "a.safetensors", SDXL_NAMES)).kind == "sdxl"
        sd15 = {name: shape for name, shape in SDXL_NAMES.items() if "to_q" not in name}
        assert inspect(safetensors(tmp_path / "b.safetensors", sd15)).kind == "other"
        assert inspect(DEFAULT_FILE).kind == "demo"
        assert inspect(written(tmp_path / "c.ckpt", "a pickle")).kind == "other"

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda file: file, "there is no such file"),
            (lambda file: written(file, "<html>not found</html>"), "not a whole safetensors file"),
            (lambda file: written(file, b""), "not a whole safetensors file"),
            (lambda file: written(file, (4).to_bytes(8, "little") + b"[[]]"), "no table of contents"),
            (lambda file: safetensors(file, SDXL_NAMES, missing=1), r"it has \d+ of \d+ bytes"),
            (lambda file: safetensors(file, DIT_NAMES), "lacks a U-Net and a text encoder: it holds joint_blocks"),
            (lambda file: safetensors(file, UNET_ONLY), "lacks a text encoder and a VAE"),
        ],
    )
    def test_a_wrong_file_is_refused(self, tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
        with pytest.raises(DevError, match=said):
            inspect(make(tmp_path / "x.safetensors"))


class TestRefusedBeforeAnythingIsDrawn:
    def test_a_folder_that_cannot_be_written(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run.out = written(run.out, "a file is in its place")
        run.server()
        self.stops(run, capsys, f"--out {run.out} cannot be written")

    def test_a_server_that_is_not_there(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        gone = run.server()
        run.server()
        gone.close()
        self.stops(run, capsys, f"{gone.address} does not answer")

    def test_a_server_that_is_something_else(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run.server().nodes = []  # type: ignore[assignment]
        self.stops(run, capsys, "does not answer as ComfyUI does", "lacks the nodes")

    def test_a_server_without_the_pack(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        del run.server().nodes["ATEDMApply"]
        self.stops(run, capsys, "lacks the nodes ATEDMApply")

    def test_a_server_without_the_checkpoint(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run.server()
        other = run.server(checkpoint="other.safetensors")
        self.stops(run, capsys, f"{other.address}: the checkpoint sdxl.safetensors: the server does not see it")

    def test_a_checkpoint_that_cannot_be_loaded(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run.server().fails = lambda workflow: "budget" in workflow
        self.stops(run, capsys, "cannot use the checkpoint sdxl.safetensors: The workflow failed")

    def test_a_sampler_that_there_is_not(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run.server()
        self.stops(run, capsys, "--sampler is 'eular'", more=["--sampler", "eular"])

    def test_images_that_are_not_there(self, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        run.server()
        self.stops(run, capsys, "there is no such folder", more=["--images", str(tmp_path / "none")])
        self.stops(run, capsys, "holds 0 pictures", more=["--images", str(tmp_path)])

    def test_prompts_in_another_encoding(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run.server()
        written(run.prompts, "K\xe4se".encode("latin-1"))
        self.stops(run, capsys, f"--prompts {run.prompts} is not UTF-8")

    @staticmethod
    def stops(run: Run, capsys: pytest.CaptureFixture[str], *said: str, more: list[str] | None = None) -> None:
        assert run(*(more or [])) == 1
        error = capsys.readouterr().err
        assert error.startswith("\nStopped: ")
        assert any(one in error for one in said), error
        assert not any(server.drawn for server in run.servers)


@pytest.mark.parametrize("wrong", ["checkpoint", "prompts", "server"])
def test_a_wrong_input_later_loses_nothing_that_was_drawn(run: Run, wrong: str) -> None:
    server = run.server()
    run("--count", "1")
    before = {file: file.read_bytes() for file in run.out.rglob("*") if file.is_file()}
    if wrong == "server":
        server.close()
    else:
        written(getattr(run, wrong), b"\xff\xfe")
    assert run("--count", "2") == 1
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize("wrong", [["--count", "0"], ["--size", "1001"], ["--steps", "0"], ["--rows", "paper-e"]])
def test_numbers_out_of_range_are_refused_by_name(
    run: Run, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(*wrong)
    assert wrong[0] in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere.safetensors", "--prompts", "p.txt"]) == 1
    assert "nowhere.safetensors: there is no such file" in capsys.readouterr().err


def test_without_torchmetrics_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "find_spec", lambda name: None if name == "torchmetrics" else object())
    made, said = quality.scorers([], quality.CLIP_MODEL, quality.torch.device("cpu"))
    assert made == []
    assert f'{sys.executable} -m pip install "{quality.REQUIREMENTS[0]}"' in said[0]


def test_the_extra_names_what_the_message_names(repository: Path) -> None:
    listed = ", ".join(f'"{one}"' for one in quality.REQUIREMENTS)
    assert f"fidelity = [{listed}]" in (repository / "pyproject.toml").read_text(encoding="utf-8")


def test_a_measure_that_cannot_be_made_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> quality.Scorer:
        raise OSError("no network\nand more")

    monkeypatch.setattr(quality, "find_spec", lambda name: object())
    monkeypatch.setattr(quality, "Clip", unreachable)
    monkeypatch.setattr(quality, "Lpips", lambda device: "made")
    made, said = quality.scorers([], quality.CLIP_MODEL, quality.torch.device("cpu"))
    assert made == ["made"]
    assert said == [
        "FID needs real pictures to compare with: --images DIR.",
        "CLIP could not be measured: OSError: no network",
    ]


def test_distances_to_the_full_picture(tmp_path: Path) -> None:
    gray = np.full((32, 32, 3), 100, np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, pixels in zip(files, (gray, gray + 10, gray[:16]), strict=True):
        Image.fromarray(pixels).save(file)
    assert quality.distances(files[0], files[0]) == {"psnr": 80.0, "ssim": 1.0}
    assert quality.distances(files[1], files[0])["psnr"] == pytest.approx(28.13, abs=0.01)
    with pytest.raises(DevError, match="differ in size"):
        quality.distances(files[2], files[0])
