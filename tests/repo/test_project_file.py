"""pyproject.toml: what the registry and ComfyUI read from it, and that it agrees with the files beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import Any

import pytest
from repo_files import ROOT, listed

from devtools.layout import CLI_VENV, CONSTRAINTS, DEV_REQUIREMENTS, PACK_FOLDER, venv_program

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SYSTEMS = "Operating System :: "
DEVICES = {"NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal"}
SHIPPED = {
    "__init__.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "atedm_core",
    "nodes",
    "patches",
    "report",
    "web",
    "example_workflows",
    "locales",
}
MAY_BE_SHIPPED = SHIPPED
LARGEST_ARCHIVE = 10e6
ICON_SIDE = 400


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The parsed file."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_name_is_the_folder_comfyui_installs_to(project: dict[str, Any]) -> None:
    assert project["project"]["name"] == PACK_FOLDER == "at-edm"


def test_version_is_the_newest_in_the_changelog(project: dict[str, Any]) -> None:
    headings = re.findall(
        r"^## \[?(\S+?)\]?(?: .*)?$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    versions = [heading for heading in headings if heading != "Unreleased"]
    assert versions[0] == project["project"]["version"]
    numbers = [tuple(map(int, version.split("."))) for version in versions]
    assert all(len(number) == 3 for number in numbers)
    assert numbers == sorted(numbers, reverse=True)


def test_the_pack_adds_no_dependency(project: dict[str, Any]) -> None:
    assert project["project"]["dependencies"] == []
    assert not (ROOT / "requirements.txt").exists()
    assert not (ROOT / "install.py").exists()


def test_classifiers_are_those_the_registry_knows(project: dict[str, Any]) -> None:
    # one that it does not know blanks the whole list
    classifiers = project["project"]["classifiers"]
    assert f"{SYSTEMS}OS Independent" in classifiers
    gpu = "Environment :: GPU :: "
    rest = [entry for entry in classifiers if not entry.startswith(SYSTEMS)]
    assert {entry.removeprefix(gpu) for entry in rest} == DEVICES


def test_comfyui_version_has_three_numbers(project: dict[str, Any]) -> None:
    # with two the requirement is dropped in silence
    assert re.fullmatch(r">=\d+\.\d+\.\d+", project["tool"]["comfy"]["requires-comfyui"])


def test_development_tools_are_listed_once_and_the_same(project: dict[str, Any]) -> None:
    lines = DEV_REQUIREMENTS.read_text(encoding="utf-8").split()
    assert project["project"]["optional-dependencies"]["dev"] == lines


def test_every_constraint_is_one_exact_release_for_every_python() -> None:
    pins: dict[str, list[str]] = {}
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            found = re.fullmatch(r"([a-z0-9-]+)==[\w.]+(?:; python_version (<|>=) \"3\.11\")?", line)
            assert found, line
            pins.setdefault(found[1], []).append(found[2] or "all")
    assert len(pins) > 60
    only_old = {name for name, where in pins.items() if where == ["<"]}
    assert only_old == {"async-timeout", "exceptiongroup", "tomli"}  # parts of newer Pythons
    assert {tuple(sorted(where)) for name, where in pins.items() if name not in only_old} == {("all",), ("<", ">=")}


@pytest.mark.parametrize("module", ["atedm_core.unet.gwpr", "/any/custom_nodes/at-edm.patches.unet.apply"])
def test_a_warning_about_own_code_fails_a_test(module: str) -> None:
    with pytest.raises(UserWarning):
        warnings.warn_explicit("ours", UserWarning, "file.py", 1, module=module)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "not ours", append=True)  # asked only where no other filter matches
        warnings.warn_explicit("not ours", UserWarning, "file.py", 1, module="torch.patches")


def copy_of_repository(target: Path) -> Path:
    """The files as they are now, in a git repository of their own: comfy-cli packs what git knows."""
    for path in listed():
        if path.parts[:2] != ("demo", "model"):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, target / path)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=target, check=True, capture_output=True)
    return target


def comfy_cli(folder: Path, home: Path, *arguments: str) -> str:
    """Both streams of a comfy-cli call that has to end with code 0."""
    program = venv_program(CLI_VENV, "comfy")
    if not program.exists():
        pytest.fail(f"{program} is missing: run `python dev.py test`, which makes it")
    env = {**os.environ, "HOME": str(home), "USERPROFILE": str(home), "NO_COLOR": "1", "COLUMNS": "200"}
    command = [program, "--skip-prompt", "--no-enable-telemetry", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    return told


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the archive for the registry was made."""
    folder = copy_of_repository(tmp_path_factory.mktemp("packed"))
    comfy_cli(folder, tmp_path_factory.mktemp("home"), "node", "pack")
    return folder


def clean(told: str) -> bool:
    """Whether a validation ended well and without a word of warning; its exit code is 0 either way."""
    lowered = told.lower()
    return "All validation checks passed" in told and "warning" not in lowered and "error" not in lowered


def test_the_registry_accepts_the_project(tmp_path: Path) -> None:
    folder = copy_of_repository(tmp_path / "copy")
    told = comfy_cli(folder, tmp_path, "node", "validate")
    assert clean(told), told
    (folder / "nodes" / "bad.py").write_text("exec('1')\n", encoding="utf-8")
    assert not clean(comfy_cli(folder, tmp_path, "node", "validate")), "a finding would not have been noticed"


def test_the_archive_holds_the_pack_and_nothing_else(packed: Path) -> None:
    names = zipfile.ZipFile(packed / "node.zip").namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops >= SHIPPED
    assert tops <= MAY_BE_SHIPPED | {".comfyignore"}
    code = {name for name in names if name.endswith(".py")}
    assert code == {str(path.as_posix()) for path in listed() if path.suffix == ".py" and path.parts[0] in SHIPPED}


def test_the_archive_is_small(packed: Path) -> None:
    assert (packed / "node.zip").stat().st_size < LARGEST_ARCHIVE


def test_the_icon_is_in_the_repository_and_square(project: dict[str, Any]) -> None:
    repository = project["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    raw = f"https://raw.githubusercontent.com/{repository}/main/"
    icon = project["tool"]["comfy"]["Icon"]
    assert icon.startswith(raw)
    drawn = ElementTree.parse(ROOT / icon.removeprefix(raw)).getroot()
    assert drawn.tag.endswith("}svg")
    assert drawn.get("width") == drawn.get("height") == str(ICON_SIDE)


def test_publishing_waits_for_a_version_on_the_owners_main_branch(project: dict[str, Any]) -> None:
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    owner = project["project"]["urls"]["Repository"].split("/")[3]
    for line in (
        "paths: [pyproject.toml]",
        "branches: [main]",
        f"if: github.repository_owner == '{owner}'",
        "uses: Comfy-Org/publish-node-action@main",
        "personal_access_token: ${{ secrets.REGISTRY_ACCESS_TOKEN }}",
    ):
        assert re.search(rf"^\s+(- )?{re.escape(line)}$", text, re.MULTILINE), line


LOAD = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from in_process import InProcessHost, enter_comfyui
from devtools.layout import current_host
base = Path(sys.argv[4])
enter_comfyui(current_host().comfyui, base)
host = InProcessHost(base)
host.load_pack(Path(sys.argv[3]))
host.load_pack(Path(sys.argv[1]) / "tiny_pack")
how = dict(seed=1, steps=2, cfg=4.0, sampler_name="euler", scheduler="normal", denoise=1.0)
run = host.run({
    "1": {"class_type": "TinyCheckpoint", "inputs": {"kind": "sdxl", "seed": 0}},
    "2": {"class_type": "ATEDMApply", "inputs": {"model": ["1", 0], "prune_ratio": 0.63}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["1", 1]}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "5": {"class_type": "KSampler", "inputs": {
        **how, "model": ["2", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0]}},
    "6": {"class_type": "ATEDMReport", "inputs": {"model": ["2", 0], "result": ["5", 0]}},
})
print(run.outputs["6"]["text"][0].splitlines()[0])
"""


@pytest.mark.slow
def test_comfyui_runs_the_archive(packed: Path, tmp_path: Path) -> None:
    pack = tmp_path / "custom_nodes" / PACK_FOLDER
    zipfile.ZipFile(packed / "node.zip").extractall(pack)
    arguments = [str(ROOT / "tests" / "host"), str(ROOT), str(pack), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    last = done.stdout.strip().splitlines()[-1:]
    assert last, done.stderr
    assert re.fullmatch(r"AT-EDM: [3-9]\d\.\d% of tokens kept, .* saved", last[0]), done.stdout + done.stderr
