"""The bundled model file is whole, and a file that is not says what is wrong with it and what to do."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from demo.check import judge
from demo.photographs.store import FILE as PHOTOGRAPHS
from demo.pixels import Pixels, PixelsConfig
from demo.scenes import all_scenes, draw, random_placing
from demo.store import DEFAULT_FILE, DemoFileError, read
from devtools.layout import ROOT

BUNDLED = DEFAULT_FILE.read_bytes()


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def truncated(file: Path) -> None:
    file.write_bytes(BUNDLED[: len(BUNDLED) // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def a_text(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\n")


def one_bit_flipped(file: Path) -> None:
    changed = bytearray(BUNDLED)
    changed[-1000] ^= 1
    file.write_bytes(changed)


def foreign(file: Path) -> None:
    save_file({"weight": torch.zeros(3)}, file)


def newer(file: Path) -> None:
    save_file(load_file(DEFAULT_FILE), file, {**metadata(DEFAULT_FILE), "format_version": "2"})


def a_weight_missing(file: Path) -> None:
    weights = load_file(DEFAULT_FILE)
    weights.popitem()
    save_file(weights, file, metadata(DEFAULT_FILE))


def absent(file: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (absent, "no such file"),
        (emptied, "not a safetensors file"),
        (truncated, "truncated"),
        (a_text, "not a safetensors file"),
        (one_bit_flipped, "checksum"),
        (a_weight_missing, "checksum"),
        (foreign, "not an AT-EDM demo model"),
        (newer, "format version '2'"),
    ],
)
def test_a_bad_file_is_named_with_its_fault_and_the_way_out(
    damage: Callable[[Path], None], fault: str, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    damage(file)
    with pytest.raises(DemoFileError) as caught:
        read(file)
    message = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert str(file) in message
    assert fault in message
    assert "git checkout" in message
    assert "`file` empty" in message


@pytest.mark.parametrize(
    ("file", "folder", "script"),
    [
        (DEFAULT_FILE, "demo/model", "demo/train.py"),
        (PHOTOGRAPHS, "demo/photographs/model", "demo/photographs/train.py"),
    ],
)
def test_a_bad_bundled_file_leads_to_its_own_folder_and_training(file: Path, folder: str, script: str) -> None:
    message = str(DemoFileError(file, "damaged"))
    assert f"git checkout -- {folder})" in message
    assert f"python {script})" in message
    assert (ROOT / folder).is_dir()
    assert (ROOT / script).is_file()
    assert "`file`" not in message, "there is no other bundled file to fall back on"


def test_a_name_that_is_too_long_for_a_file_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DemoFileError, match="no such file"):
        read(tmp_path / ("x" * 5000))


def test_the_bundled_file_is_small_and_tells_how_it_was_made() -> None:
    content = read(DEFAULT_FILE)
    assert len(BUNDLED) < 12_000_000
    assert content.training["steps"] > 0
    assert json.loads(metadata(DEFAULT_FILE)["config"]) == content.config


def test_reading_a_file_leaves_nothing_behind() -> None:
    """A server that draws with more than one model reads it again and again."""
    content = read(DEFAULT_FILE)
    weights = len(content.unet) + len(content.text) + len(content.pixels)
    blocks = []
    for _ in range(3):
        read(DEFAULT_FILE)
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    assert blocks[-1] - blocks[0] < weights


def test_pictures_survive_the_autoencoder() -> None:
    content = read(DEFAULT_FILE)
    pixels = Pixels(PixelsConfig(**content.config["pixels"]))
    pixels.load_state_dict(content.pixels)
    rng, scenes = np.random.default_rng(4), list(all_scenes())
    scenes = [scenes[i] for i in rng.permutation(len(scenes))[:24]]
    drawn = np.stack([draw(s, random_placing(rng)) for s in scenes])
    with torch.no_grad():
        latents = pixels.encode(torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1)
        back = pixels.decode(latents)
    back = ((back.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    error = np.mean((back.astype(np.float32) - drawn) ** 2)
    assert 10 * np.log10(255**2 / error) > 33
    assert 0.8 < float(latents.std()) * 0.13025 < 1.2
    assert sum(judge(b, s)["right"] for b, s in zip(back, scenes, strict=True)) >= 23
