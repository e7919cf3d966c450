"""Last stage of the training: the averaged weights of a checkpoint, and the autoencoder's,

Into the file that the loader reads.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from .model import DemoConfig, build_clip
from .store import DemoFile, write
from .text import vocabulary

log = logging.getLogger("demo.train")


def export(config: DemoConfig, work: Path, out: Path, more_words: Sequence[str] = ()) -> None:
    """Write `out` from `work`/model.pt and `work`/pixels.pt. `more_words`: what captions hold beyond the demo's."""
    saved = torch.load(work / "model.pt", weights_only=False)
    pixels = torch.load(work / "pixels.pt")
    parts = {
        name: {k.removeprefix(f"{name}."): v for k, v in saved["average"].items() if k.startswith(f"{name}.")}
        for name in ("unet", "text")
    }
    tokens = vocabulary(build_clip(config).tokenizer, more_words)
    seconds = saved["progress"]["seconds"] + saved["progress"].get("earlier", 0.0)
    notes = {"steps": saved["progress"]["step"], "minutes": round(seconds / 60, 1)}
    write(out, DemoFile(parts["unet"], parts["text"], pixels, config.to_dict(), tokens, notes))
    log.info("export: %s, %.1f MB, %d steps", out.name, out.stat().st_size / 1e6, notes["steps"])
