"""The house rules: which room may use which, how long a module may be, what must not stand anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from repo_files import ROOT, TEXT, Import, imports_of, listed, python_files

PACK = ("atedm_core", "nodes", "patches")
OWN = (*PACK, "demo", "benchmarks", "tests", "devtools", "dev")
HOST_MODULES = ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "execution", "server")
MAY_USE = {
    "atedm_core": {"atedm_core"},
    "patches": {"patches", "atedm_core"},
    "nodes": {"nodes", "patches", "atedm_core"},
}
LONGEST = 400
MACHINE_PATH = re.compile(r"(?<![\w.:/~}-])/(tmp|work|root|home|Users|opt)/[A-Za-z0-9_.]")


def arrow_faults(one: Import) -> list[str]:
    """What an import inside the pack does wrong, if anything."""
    room = one.file.parts[0]
    if one.level == 0:
        # `nodes` is ComfyUI's own module, `demo` and the like are not shipped
        return [f"{one}: absolute import of an own package"] if one.top in OWN else []
    target = one.target_folder()
    return [] if target in MAY_USE[room] else [f"{one}: {room} must not use {target}"]


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
    ],
)
def test_a_wrong_arrow_would_be_found(file: str, source: str) -> None:
    assert [fault for one in imports_of(Path(file), source) for fault in arrow_faults(one)] != []


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
    assert {one.module for one in used} == {"__future__", "comfy_api.latest", "nodes"}
    assert len((ROOT / "__init__.py").read_text(encoding="utf-8").splitlines()) < 60


def test_dev_tools_need_the_standard_library_only() -> None:
    files = [Path("dev.py"), *python_files("devtools")]
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
