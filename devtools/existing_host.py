"""A ComfyUI that is there already, named by COMFYUI_PATH, with its Python. Nothing is installed into that Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .console import DevError, clean_environment
from .host_setup import prepare_own
from .layout import BASE, COMFYUI, DEV_REQUIREMENTS, Host, venv_program

ENVIRONMENT_FOLDERS = (".venv", "venv", "../.venv", "../venv")
PORTABLE_PYTHON = "../python_embeded/python.exe"
DEV_MODULES = ("pytest", "xdist", "hypothesis", "ruff", "mypy")


def _named_path() -> Path | None:
    """The tree COMFYUI_PATH names, checked; None without the variable."""
    value = os.environ.get("COMFYUI_PATH", "").strip()
    if not value:
        return None
    path = Path(value).expanduser().resolve()
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        raise DevError(
            f"COMFYUI_PATH is {value!r}, but there is no ComfyUI (main.py and comfy/) in it."
            " Name the folder that holds main.py, or unset COMFYUI_PATH to let dev.py fetch ComfyUI."
        )
    return None if path == COMFYUI.resolve() else path


def _named_python(comfyui: Path) -> Path | None:
    """The Python of that tree: COMFYUI_PYTHON, else an environment in it or beside it."""
    value = os.environ.get("COMFYUI_PYTHON", "").strip()
    if value:
        python = Path(value).expanduser().absolute()
        if not python.is_file():
            raise DevError(
                f"COMFYUI_PYTHON is {value!r}, but there is no such file. Name ComfyUI's python program, or unset it."
            )
        return python
    candidates = [venv_program(comfyui / folder, "python") for folder in ENVIRONMENT_FOLDERS]
    if sys.platform == "win32":
        candidates.append(comfyui / PORTABLE_PYTHON)
    return next((Path(os.path.normpath(found)) for found in candidates if found.is_file()), None)


def _require(python: Path, modules: tuple[str, ...], advice: str) -> None:
    code = f"import {', '.join(modules)}"
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, env=clean_environment())
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise DevError(f"{python} cannot be used: {reason}\n{advice}")


def prepare(dev_tools: bool = False) -> Host:
    """The host to work with: the one named in the environment, else the one dev.py makes for itself."""
    comfyui = _named_path()
    if comfyui is None:
        return prepare_own(dev_tools=dev_tools)
    python = _named_python(comfyui)
    if python is None:
        return prepare_own(comfyui, dev_tools)
    _require(
        python,
        ("torch", "aiohttp", "safetensors"),
        "Install ComfyUI's requirements there, or name another COMFYUI_PYTHON.",
    )
    if dev_tools:
        advice = f"The tests need these there: {python} -m pip install -r {DEV_REQUIREMENTS}\nOr unset COMFYUI_PATH."
        _require(python, DEV_MODULES, advice)
    return Host(comfyui, python, BASE)
