"""The demo model's file: one safetensors holding U-Net, text and pixels in half precision,

And in its metadata all that builds them.

Reading checks everything that can be wrong with a file and says which file it is, what is wrong with it and what to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save_file
from torch import Tensor

FORMAT = "atedm-demo"
VERSION = "1"
PARTS = ("unet", "text", "pixels")
HERE = Path(__file__).resolve().parent
DEFAULT_FILE = HERE / "model" / "atedm_demo.safetensors"
TRAINING = {"model": "train.py", "photographs/model": "photographs/train.py"}
"""What makes the bundled files, by their folder."""


class DemoFileError(ValueError):
    """A model file that cannot be used; the message names the file, the fault and the way out."""

    def __init__(self, file: Path, fault: str) -> None:
        super().__init__(f"{file}: {fault}. {way_out(file)}")


def way_out(file: Path) -> str:
    """What to do about a file that cannot be used: where it comes from, or which to use in its place."""
    for folder, script in TRAINING.items():
        if file.resolve().parent == HERE / folder:
            return (
                f"Restore the file from the repository (git checkout -- demo/{folder}) "
                f"or train it again (python demo/{script})."
            )
    return (
        "Name a file that the demo's training wrote, or leave the input `file` empty to use a bundled one "
        "(git checkout -- demo restores those)."
    )


@dataclass(frozen=True)
class DemoFile:
    """What a file holds: the parts' weights by name, the configuration,

    The stored CLIP tokens and notes on the training.
    """

    unet: dict[str, Tensor]
    text: dict[str, Tensor]
    pixels: dict[str, Tensor]
    config: dict[str, Any]
    tokens: list[int]
    training: dict[str, Any]


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).clone().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write(file: Path, content: DemoFile) -> None:
    """Save in half precision."""
    tensors = {f"{p}.{k}": v.detach().half().contiguous() for p in PARTS for k, v in getattr(content, p).items()}
    metadata = {
        "format": FORMAT,
        "format_version": VERSION,
        "config": json.dumps(content.config),
        "tokens": json.dumps(content.tokens),
        "training": json.dumps(content.training),
        "sha256": checksum(tensors),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata)


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long for any file
        return False


def weights_of(file: Path) -> dict[str, Tensor]:
    """All tensors of a small file, read at once.

    One by one, safetensors 0.8 leaves two integers behind for each of them, and a server that draws with two models in
    turn reads theirs again and again.
    """
    return load(file.read_bytes())


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """What safetensors raises, as a fault of the file."""
    try:
        yield
    except Exception as fault:  # the library raises several kinds, all of which mean the same to a user
        raise DemoFileError(file, f"not a safetensors file, or a truncated one ({fault})") from fault


def read(file: Path) -> DemoFile:
    """Load and check a file; raises DemoFileError. Weights come in half precision."""
    if not _is_file(file):
        raise DemoFileError(file, "there is no such file")
    # before the weights: a checkpoint of many gigabytes that is none of ours is not read
    with _readable(file), safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise DemoFileError(
            file, f"not an AT-EDM demo model: its metadata has format {metadata.get('format')!r}, not {FORMAT!r}"
        )
    if metadata.get("format_version") != VERSION:
        raise DemoFileError(
            file, f"format version {metadata.get('format_version')!r}, but this loader reads version {VERSION!r}"
        )
    with _readable(file):
        tensors = weights_of(file)
    if metadata.get("sha256") != checksum(tensors):
        raise DemoFileError(file, "the weights do not match their checksum, so the file is damaged")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise DemoFileError(file, f"unexpected weight {name!r}")
        parts[part][rest] = tensor
    try:
        notes = {key: json.loads(metadata[key]) for key in ("config", "tokens", "training")}
    except (KeyError, ValueError, RecursionError) as fault:
        raise DemoFileError(file, f"its metadata cannot be read ({fault!r})") from fault
    return DemoFile(**parts, **notes)
