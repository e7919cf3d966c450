"""Where the photographs come from: Debian packages, fetched by name with apt and unpacked into a folder of work.

Nothing is installed, and nothing of a package ends up in the repository: only weights that were trained on it.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("demo.train")


@dataclass(frozen=True)
class Package:
    """A Debian package and the licences that its `debian/copyright` names for the pictures used here."""

    name: str
    shows: str
    licences: str


PACKAGES = (
    Package("tuxpaint-stamps-default", "photographed objects with transparency", "GPL-2"),
    Package("mate-backgrounds", "photographs", "GPL-2+"),
    Package("plasma-workspace-wallpapers", "photographs and artwork", "GPL-2+"),
    Package("gnome-backgrounds", "rendered artwork", "CC-BY-SA-3.0, GPL-2+"),
    Package("lomiri-wallpapers-16.04", "photographs", "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0"),
    Package("lomiri-wallpapers-20.04", "photographs and artwork", "CC-BY-SA-3.0"),
    Package("ukui-wallpapers", "artwork", "CC-BY-SA-3.0"),
)


class PackageError(RuntimeError):
    """A package that cannot be fetched or unpacked; the message says which, why and what to do."""


def fetch(folder: Path) -> Path:
    """Unpack all packages under `folder`, where that was not done yet; returns the root of what they hold."""
    root, archives = folder / "tree", folder / "deb"
    archives.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if (root / "usr/share/doc" / package.name / "copyright").is_file():
            continue
        if not (found := sorted(archives.glob(f"{package.name}_*.deb"))):
            _call(["apt-get", "download", package.name], package, archives)
            found = sorted(archives.glob(f"{package.name}_*.deb"))
        log.info("packages: unpacking %s", found[-1].name)
        _call(["dpkg", "-x", str(found[-1].resolve()), str(root.resolve())], package, archives)
    return root


def _call(command: list[str], package: Package, folder: Path) -> None:
    way_out = (
        f"On Debian or Ubuntu run `apt-get update` first; elsewhere put {package.name}_*.deb from a Debian mirror into "
        f"{folder} and unpack it there into {folder.parent / 'tree'} (`ar x`, then `tar xf data.tar.xz -C ../tree`)."
    )
    if shutil.which(command[0]) is None:
        raise PackageError(
            f"the photographs are in the Debian package {package.name}, but {command[0]} is not here. {way_out}"
        )
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as fault:
        raise PackageError(f"`{' '.join(command)}` failed: {fault.stderr.strip()[-300:]}. {way_out}") from fault
