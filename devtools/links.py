"""Links from a host's custom_nodes folder to folders of this repository."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .console import DevError

BASE_FOLDERS = ("custom_nodes", "input", "output", "temp", "models", "user")


def make_base(base: Path) -> None:
    """The folders ComfyUI writes to and reads from, apart from its own tree."""
    for name in BASE_FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)


def link_folder(link: Path, target: Path) -> None:
    """Make `link` lead to `target`; one that leads elsewhere is replaced, a real folder is left alone and reported."""
    if is_link(link):
        if link.resolve() == target.resolve():
            return
        unlink_folder(link)
    elif link.exists():
        raise DevError(f"{link} is a real folder, not a link to {target}. Move it away and call again.")
    link.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        import _winapi  # only there; a junction needs no special rights, a symbolic link does

        _winapi.CreateJunction(str(target.resolve()), str(link))
    else:
        link.symlink_to(target.resolve(), target_is_directory=True)


def unlink_folder(link: Path) -> None:
    """Take a link away and leave what it leads to."""
    if link.is_symlink():
        link.unlink()
    elif is_link(link):
        link.rmdir()  # a junction


def is_link(path: Path) -> bool:
    """Whether this is a symbolic link or, on Windows, a junction."""
    if path.is_symlink():
        return True
    if sys.platform != "win32":
        return False
    try:
        return bool(os.readlink(path))
    except OSError:
        return False
