"""The house rules: which room may use which, how long a module may be, what must not stand anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from repo_files import ROOT, TEXT, Import, imports_of, listed, python_files

PACK = ("atedm_core", "nodes", "patches", "report")
OWN = (*PACK, "demo", "benchmarks", "tests", "devtools", "dev")
HOST_MODULES = ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "execution", "server")
MAY_USE = {
    "atedm_core": {"atedm_core"},
    "report": {"report"},
    "patches": {"patches", "report", "atedm_core"},
    "nodes": {"nodes", "patches", "report", "atedm_core"},
}
WINGS = ("unet", "dit")
WINGED = ("atedm_core", "patches")
LONGEST = 400
MACHINE_PATH = re.compile(r"(?<![\w.:/~}-])/(tmp|work|root|home|Users|opt)/[A-Za-z0-9_.]")


def wing(path: tuple[str, ...]) -> str | None:
    """The wing that a path lies in, `None` between the wings and outside of them."""
    return path[1] if len(path) > 1 and path[0] in WINGED and path[1] in WINGS else None


def may_use_both_wings(file: Path) -> bool:
    """The public names of the core, and whatever chooses between the methods."""
    return file.parts[0] == "nodes" or file.as_posix() in ("atedm_core/__init__.py", "patches/steps/auto.py")


def arrow_faults(one: Import) -> list[str]:
    """What an import inside the pack does wrong, if anything."""
    room = one.file.parts[0]
    if one.level == 0:
        # `nodes` is ComfyUI's own module, `demo` and the like are not shipped
        return [f"{one}: absolute import of an own package"] if one.top in OWN else []
    target = one.target()
    if target[0] not in MAY_USE[room]:
        return [f"{one}: {room} must not use {target[0]}"]
    to, own = wing(target), wing(one.file.parts)
    if to is None or to == own or may_use_both_wings(one.file):
        return []
    return [f"{one}: {'what is shared' if own is None else own} must not use the wing {to}"]


def pack_imports() -> list[Import]:
    return [one for file in python_files(*PACK) for one in imports_of(file)]


def test_arrows_run_one_way() -> None:
    found = pack_imports()
    assert {one.file.parts[0] for one in found} == set(PACK)
    assert any(one.level > 1 for one in found), "no import between rooms was found at all"
    assert [fault for one in found for fault in arrow_faults(one)] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("atedm_core/a.py", "from ..patches import apply"),
        ("atedm_core/sub/a.py", "from ...nodes import apply"),
        ("patches/a.py", "from .. import nodes"),
        ("patches/a.py", "def f():\n    from ..nodes.apply import x"),
        ("nodes/a.py", "from ..demo.run import main"),
        ("nodes/a.py", "from atedm_core import gwpr"),
        ("patches/a.py", "import atedm_core.gwpr"),
        ("nodes/a.py", "import nodes"),
        ("report/a.py", "from ..atedm_core.tokens import TokenSubset"),
        ("report/a.py", "from ..patches.host import sampling"),
        ("atedm_core/report.py", "from ..report.record import Tally"),
        ("atedm_core/unet/a.py", "from ..dit.flops import x"),
        ("atedm_core/unet/a.py", "from .. import dit"),
        ("atedm_core/tokens.py", "from .unet.flops import x"),
        ("patches/unet/a.py", "from ..dit.run import CATRun"),
        ("patches/unet/a.py", "from ...atedm_core.dit.flops import x"),
        ("patches/dit/a.py", "from ...atedm_core import unet"),
        ("patches/host/a.py", "from ..unet import run"),
        ("patches/steps/apply.py", "from ..dit import apply"),
    ],
)
def test_a_wrong_arrow_would_be_found(file: str, source: str) -> None:
    assert [fault for one in imports_of(Path(file), source) for fault in arrow_faults(one)] != []


def test_benchmarks_take_the_pack_from_one_place() -> None:
    found = [one for file in python_files("benchmarks") for one in imports_of(file)]
    # `nodes` is ComfyUI's own module
    assert [str(one) for one in found if one.level == 0 and one.top in set(PACK) - {"nodes"}] == []
    assert any(one.level > 0 and one.target()[:3] == ("benchmarks", "pack", "atedm_core") for one in found)


def test_the_labs_wings_never_touch() -> None:
    found = [one for file in python_files("benchmarks") if file.parts[1] == "lab" for one in imports_of(file)]
    places = [(one, one.target()[2], one.file.parts[2]) for one in found if one.level > 0 and "lab" in one.target()]
    assert {own for _, _, own in places if own in WINGS} == set(WINGS)
    assert [str(one) for one, to, own in places if to in WINGS and to != own] == []


def test_core_imports_torch_and_the_standard_library_only() -> None:
    allowed = {"torch", *sys.stdlib_module_names}
    found = [one for file in python_files("atedm_core") for one in imports_of(file)]
    assert any(one.top == "torch" for one in found)
    assert [str(one) for one in found if one.level == 0 and one.top not in allowed] == []


def test_core_runs_where_there_is_no_comfyui() -> None:
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HOST_MODULES!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.path.insert(0, {str(ROOT)!r})
import torch, atedm_core
q = torch.randn(1, 2, 16, 8)
assert atedm_core.gwpr(q, q).shape == (1, 2, 16)
print("ran")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent
    )
    assert done.stdout.strip() == "ran", done.stderr


def test_the_entry_point_holds_nothing_but_the_entry_point() -> None:
    used = list(imports_of(Path("__init__.py")))
    assert {one.module for one in used} == {"__future__", "logging", "nodes", "patches.host.version"}
    assert len((ROOT / "__init__.py").read_text(encoding="utf-8").splitlines()) < 60


def test_dev_tools_need_the_standard_library_only() -> None:
    # the fuzzer alone runs in the host's Python
    files = [Path("dev.py"), *(file for file in python_files("devtools") if "fuzz" not in file.parts)]
    assert len(files) > 5
    allowed = {"devtools", *sys.stdlib_module_names}
    assert [str(one) for file in files for one in imports_of(file) if one.level == 0 and one.top not in allowed] == []


def test_modules_stay_short() -> None:
    files = [path for path in listed() if path.suffix in (".py", ".js")]
    lengths = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_path_of_one_machine() -> None:
    assert MACHINE_PATH.search("see /home/me/models")
    assert not MACHINE_PATH.search("https://example.org/work/x, ./tmp/x, models/opt/x")
    hits = []
    for path in listed():
        if path.suffix not in TEXT or path == Path("tests/repo/test_structure.py"):
            continue
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        hits += [f"{path}:{number}" for number, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert hits == []


def test_nothing_is_too_large_for_git() -> None:
    largest = max(listed(), key=lambda path: (ROOT / path).stat().st_size)
    size = (ROOT / largest).stat().st_size
    assert size < 25e6, f"{largest} has {size / 1e6:.1f} MB"
