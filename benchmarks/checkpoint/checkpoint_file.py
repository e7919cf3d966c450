"""What kind of checkpoint a file is, from its header alone: nothing long is begun on a wrong one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.store import DEFAULT_FILE, FORMAT
from devtools.console import DevError

LOADER = "CheckpointLoaderSimple"
DEMO_LOADER = "ATEDMDemoLoader"
UNET = "model.diffusion_model."
PARTS = {
    "a U-Net": (UNET + "input_blocks.", UNET + "output_blocks."),
    "a text encoder": ("conditioner.", "cond_stage_model."),
    "a VAE": ("first_stage_model.",),
}
SDXL_SIGN = UNET + "input_blocks.7.1.transformer_blocks.9.attn1.to_q.weight"
SDXL_WIDTH = 1280
LONGEST_HEADER = 100_000_000
OTHER_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """A file that may be drawn with.

    Attributes:
        file: where it lies.
        size: of the file in bytes.
        kind: `sdxl`, `other` (a U-Net to which the paper's numbers do not apply) or `demo`, this repository's own
            small model, which has a loader of its own.
    """

    file: Path
    size: int
    kind: str

    def loader(self, name: str) -> dict[str, Any]:
        """The node that loads it; `name` is what a server calls it."""
        if self.kind == "demo":
            bundled = self.file.resolve() == DEFAULT_FILE.resolve()
            return {"class_type": DEMO_LOADER, "inputs": {} if bundled else {"file": self.file.name}}
        return {"class_type": LOADER, "inputs": {"ckpt_name": name}}


def inspect(file: Path) -> Checkpoint:
    """Read the header of a safetensors file.

    Files of other formats pass as kind `other`: only loading them says what they are.

    Raises:
        DevError: there is no such file, it is damaged, or is no whole checkpoint with a U-Net.
    """
    if not file.is_file():
        raise DevError(f"checkpoint {file}: there is no such file. Name a checkpoint such as SDXL's .safetensors.")
    size = file.stat().st_size
    if file.suffix.lower() in OTHER_SUFFIXES:
        return Checkpoint(file, size, "other")
    header = read_header(file)
    if header.get("__metadata__", {}).get("format") == FORMAT:
        return Checkpoint(file, size, "demo")
    missing = [part for part, starts in PARTS.items() if not any(name.startswith(starts) for name in header)]
    if missing:
        raise DevError(
            f"checkpoint {file} lacks {' and '.join(missing)}: it holds {_examples(header)}. AT-EDM works on "
            "U-Nets (SDXL, SD 1.x, SD 2.x); name a whole checkpoint of such a model, with text encoder and VAE."
        )
    shape = header.get(SDXL_SIGN, {}).get("shape")
    return Checkpoint(file, size, "sdxl" if shape == [SDXL_WIDTH, SDXL_WIDTH] else "other")


def read_header(file: Path) -> dict[str, Any]:
    """The table of contents of a safetensors file.

    Raises:
        DevError: it is none, or its end is missing.
    """
    fault = f"checkpoint {file} is not a whole safetensors file"
    try:
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if not 0 < length < LONGEST_HEADER:
                raise ValueError("its header has no sensible length")
            header = json.loads(content.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no table of contents")
        ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
    except OSError as error:
        raise DevError(f"checkpoint {file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DevError(f"{fault} ({error}). Name a checkpoint, or fetch it again.") from error
    wanted = 8 + length + max(ends, default=0)
    if file.stat().st_size < wanted:
        raise DevError(f"{fault}: it has {file.stat().st_size} of {wanted} bytes. Fetch it again.")
    return header


def _examples(header: Mapping[str, Any]) -> str:
    names = [name for name in header if name != "__metadata__"][:2]
    return ", ".join(names) + ", ..." if names else "nothing"
