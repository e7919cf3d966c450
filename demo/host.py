"""Finding ComfyUI and importing it in this process, for training, evaluation and tests.

Inside ComfyUI itself nothing here is needed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def comfyui_path() -> Path:
    """The ComfyUI tree: $COMFYUI_PATH, else .host/ComfyUI in the repository."""
    path = Path(os.environ.get("COMFYUI_PATH") or REPOSITORY / ".host" / "ComfyUI")
    if not (path / "comfy" / "sd.py").is_file():
        raise FileNotFoundError(
            f"no ComfyUI at {path}: set COMFYUI_PATH to a ComfyUI folder, or make one with `python dev.py host`"
        )
    return path


def use_host(cpu: bool = True) -> None:
    """Make `import comfy` work. Must come before the first import of `comfy.model_management`."""
    path = str(comfyui_path())
    if sys.path[0] != path:  # in front: the module `nodes` must be ComfyUI's, not the folder of this repository
        sys.path.insert(0, path)
    from comfy.cli_args import args

    args.cpu = cpu
    args.use_pytorch_cross_attention = True
