"""Where the bundled weights are."""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).resolve().parent / "model" / "atedm_photographs.safetensors"
