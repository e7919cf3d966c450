"""Where everything lies. All of it is inside the repository and ignored by git."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CLI_VENV = ROOT / ".venv-cli"
STATE = ROOT / ".host"
COMFYUI = STATE / "ComfyUI"
BASE = STATE / "base"
LOGS = STATE / "logs"
STAMPS = STATE / "stages.json"
DOWNLOADS = STATE / "download"
CONSTRAINTS = ROOT / "devtools" / "host-constraints.txt"
DEV_REQUIREMENTS = ROOT / "devtools" / "dev-requirements.txt"
PACK_FOLDER = "at-edm"


def scripts_folder(venv: Path) -> Path:
    """The folder of a virtual environment that holds its programs."""
    return venv / ("Scripts" if sys.platform == "win32" else "bin")


def venv_program(venv: Path, name: str) -> Path:
    """The path of one program of a virtual environment."""
    return scripts_folder(venv) / (f"{name}.exe" if sys.platform == "win32" else name)


@dataclass(frozen=True)
class Host:
    """A ComfyUI that can be started: its tree, its Python and the base folder it may write to."""

    comfyui: Path
    python: Path
    base: Path = BASE

    def environment(self) -> dict[str, str]:
        """What tests, benchmarks and the demo need to find this host."""
        return {"COMFYUI_PATH": str(self.comfyui), "COMFYUI_PYTHON": str(self.python)}


def current_host() -> Host:
    """The host a process started by dev.py was given; the one dev.py makes when started by hand."""
    return Host(
        Path(os.environ.get("COMFYUI_PATH") or COMFYUI),
        Path(os.environ.get("COMFYUI_PYTHON") or venv_program(VENV, "python")),
    )
