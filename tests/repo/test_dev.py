"""dev.py: stages that are done once, links, what it says when something is wrong."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from repo_files import ROOT, python_files

from devtools import existing_host, host_setup, links, recipe, server, stages, testing
from devtools.commands import benchmarks
from devtools.console import DevError, run_logged
from devtools.layout import COMFYUI, Host
from devtools.stages import Stage, run_stages


def recorded(names: str, ran: list[str], inputs: str = "1", broken: str = "") -> list[Stage]:
    """One stage per letter that notes when it runs; the one in `broken` fails."""

    def action(name: str) -> None:
        ran.append(name)
        if name == broken:
            raise DevError("no network")

    return [Stage(name, inputs, lambda name=name: action(name), lambda: True) for name in names]


class TestStages:
    def test_run_once(self, tmp_path: Path) -> None:
        ran: list[str] = []
        assert run_stages(recorded("abc", ran), tmp_path / "s.json")
        assert not run_stages(recorded("abc", ran), tmp_path / "s.json")
        assert ran == ["a", "b", "c"]

    def test_go_on_where_they_stopped(self, tmp_path: Path) -> None:
        ran: list[str] = []
        with pytest.raises(DevError):
            run_stages(recorded("abc", ran, broken="b"), tmp_path / "s.json")
        run_stages(recorded("abc", ran), tmp_path / "s.json")
        assert ran == ["a", "b", "b", "c"]

    def test_a_change_redoes_what_stands_on_it(self, tmp_path: Path) -> None:
        ran: list[str] = []
        run_stages(recorded("abc", ran), tmp_path / "s.json")
        changed = [*recorded("a", ran), *recorded("b", ran, inputs="2"), *recorded("c", ran)]
        run_stages(changed, tmp_path / "s.json")
        assert ran == ["a", "b", "c", "b", "c"]

    def test_a_lost_result_is_made_again(self, tmp_path: Path) -> None:
        ran: list[str] = []
        run_stages(recorded("ab", ran), tmp_path / "s.json")
        gone = Stage("a", "1", lambda: ran.append("a"), lambda: False)
        run_stages([gone, *recorded("b", ran)], tmp_path / "s.json")
        assert ran == ["a", "b", "a", "b"]

    def test_another_commands_stage_is_forgotten_with_what_it_stood_on(self, tmp_path: Path) -> None:
        ran: list[str] = []
        run_stages(recorded("abc", ran), tmp_path / "s.json")
        run_stages(recorded("ab", ran, inputs="2"), tmp_path / "s.json")
        run_stages(recorded("abc", ran, inputs="2"), tmp_path / "s.json")
        assert "".join(ran) == "abcabc"

    def test_a_broken_stamp_file_means_nothing_is_done(self, tmp_path: Path) -> None:
        (tmp_path / "s.json").write_text("{half", encoding="utf-8")
        ran: list[str] = []
        assert run_stages(recorded("a", ran), tmp_path / "s.json")
        assert ran == ["a"]

    def test_the_host_depends_on_pins_and_source(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def keys() -> list[str]:
            return stages._keys(host_setup._stages(COMFYUI, dev_tools=True))

        before = keys()
        monkeypatch.setitem(recipe.SOURCES, recipe.COMFYUI_VERSION, recipe.Source("2.6.0", "0" * 64))
        source = [new == old for new, old in zip(keys(), before, strict=True)]
        monkeypatch.setattr(recipe, "TORCH", ("torch==0.0.1",))
        torch = [new == old for new, old in zip(keys(), before, strict=True)]
        assert source == [True, True, False, False, False]
        assert torch == [True, False, False, False, False]


HOLD = """
import sys, time
from pathlib import Path
from devtools.lock import only_one
with only_one(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(60)
"""


def test_two_setups_at_once_wait_for_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []
    lock = tmp_path / "s.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        threading.Timer(1.0, holder.kill).start()  # a process that dies gives its lock back
        run_stages(recorded("a", ran), tmp_path / "s.json")
    assert "waiting" in capsys.readouterr().out
    assert ran == ["a"]


class TestLinks:
    def test_lead_to_their_target_and_are_replaced(self, tmp_path: Path) -> None:
        one, two, link = tmp_path / "one", tmp_path / "two", tmp_path / "deep" / "link"
        one.mkdir()
        two.mkdir()
        for target in (one, one, two):
            links.link_folder(link, target)
            assert links.is_link(link)
            assert link.resolve() == target.resolve()
        (two / "kept").touch()
        links.unlink_folder(link)
        links.unlink_folder(link)
        assert not link.exists()
        assert (two / "kept").exists()

    def test_leave_real_folders_alone(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        with pytest.raises(DevError, match="real folder"):
            links.link_folder(tmp_path / "real", tmp_path)


@pytest.mark.parametrize(("device", "code"), [("cpu", 0), ("meta", 1)])
def test_only_a_device_that_computes_is_used(device: str, code: int) -> None:
    pretend = (
        "import torch; torch.accelerator.is_available = lambda: True; "
        f"torch.accelerator.current_accelerator = lambda: torch.device({device!r})"
    )
    command = [sys.executable, "-c", f"{pretend}\n{server.HAS_ACCELERATOR}"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code


class TestExistingHost:
    def test_says_what_is_wrong_with_the_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
        with pytest.raises(DevError, match="no ComfyUI"):
            existing_host.prepare()

    def test_takes_the_environment_inside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
        (tmp_path / "main.py").touch()
        (tmp_path / "comfy").mkdir()
        monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
        assert existing_host._named_path() == tmp_path.resolve()
        assert existing_host._named_python(tmp_path) is None
        python = existing_host.venv_program(tmp_path / "venv", "python")
        python.parent.mkdir(parents=True)
        python.touch()
        assert existing_host._named_python(tmp_path) == python

    def test_a_python_that_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "python"))
        with pytest.raises(DevError, match="no such file"):
            existing_host._named_python(tmp_path)

    def test_a_python_without_what_is_needed(self) -> None:
        with pytest.raises(DevError, match=r"no_such_module_here[\s\S]*do this"):
            existing_host._require(Path(sys.executable), ("no_such_module_here",), "do this")


def test_unpacking_takes_only_the_tree_and_nothing_outside(tmp_path: Path) -> None:
    archive = tmp_path / "source.tar"
    prefix = recipe.SOURCES[recipe.COMFYUI_VERSION].prefix
    with tarfile.open(archive, "w") as tar:
        for name in (f"{prefix}main.py", f"{prefix}../escaped.py", "other/file.py", f"{prefix}/absolute.py"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
        link = tarfile.TarInfo(f"{prefix}link")
        link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
        tar.addfile(link)
    target = tmp_path / "out" / "tree"
    with tarfile.open(archive) as tar:
        for member in tar:
            host_setup._extract(tar, member, target, prefix)
    assert [path.name for path in (tmp_path / "out").rglob("*") if not path.is_dir()] == ["main.py"]


def test_another_comfyui_has_a_folder_and_an_environment_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path / "ComfyUI", tmp_path / "python")
    fetched: list[tuple[str, Path]] = []

    def fetch(version: str, target: Path, python: Path) -> None:
        target.mkdir()
        (target / "main.py").touch()
        fetched.append((version, python))

    monkeypatch.setattr(host_setup, "STATE", tmp_path)
    monkeypatch.setattr(host_setup, "fetch_source", fetch)
    for _ in range(2):
        assert host_setup.other_version("0.20.1", host).comfyui == tmp_path / "ComfyUI-0.20.1"
    assert fetched == [("0.20.1", host.python)]
    with pytest.raises(DevError, match=r"--host 0\.1: .* There are 0\.30\.0, 0\.20\.1"):
        host_setup.other_version("0.1", host)


def test_the_oldest_supported_comfyui_has_a_pinned_source() -> None:
    oldest = re.search(r'requires-comfyui = ">=(.+?)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert oldest is not None
    assert oldest[1] in recipe.SOURCES
    assert f'OLDEST = "{oldest[1]}"' in (ROOT / "patches" / "host" / "version.py").read_text(encoding="utf-8")


def test_a_failing_command_shows_its_end_and_the_advice(tmp_path: Path) -> None:
    code = "print('first'); print('the reason'); raise SystemExit(3)"
    with pytest.raises(DevError, match=r"code 3[\s\S]*the reason[\s\S]*try again[\s\S]*log\.txt"):
        run_logged([sys.executable, "-c", code], tmp_path / "log.txt", "try again")


class TestArguments:
    def test_paths_choose_suites(self) -> None:
        chosen, other = testing._split(["tests/repo/test_dev.py::TestArguments", "-k", "paths"])
        assert chosen == {"repo": ["tests/repo/test_dev.py::TestArguments"]}
        assert other == ["-k", "paths"]

    def test_no_suite_is_forgotten(self) -> None:
        assert set(testing.suites()) >= {"core", "host", "repo"}

    def test_a_vanished_suite_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(testing, "TESTS", tmp_path)
        with pytest.raises(DevError, match="tests/core"):
            testing.suites()

    def test_no_test_at_all_is_a_failure(self) -> None:
        assert testing._summary([testing.Outcome("tests/core", True, 0.0)], 0) == 1
        assert testing._summary([testing.Outcome("tests/core", True, 0.0)], 1) == 0
        assert testing._summary([testing.Outcome("tests/core", False, 0.0)], 1) == 1


def dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    """dev.py under an interpreter that sees no installed package."""
    command = [sys.executable, "-S", "-E", "-s", str(ROOT / "dev.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT.parent)


class TestCommandLine:
    def test_alone_prints_help(self) -> None:
        done = dev()
        assert done.returncode == 0
        for command in ("demo", "test", "bench", "host"):
            assert f"python dev.py {command}" in done.stdout

    def test_unknown_command(self) -> None:
        done = dev("frobnicate")
        assert done.returncode == 2
        assert "frobnicate" in done.stderr

    def test_unknown_benchmark_lists_the_known_ones(self) -> None:
        done = dev("bench", "no-such-benchmark")
        assert done.returncode == 1
        assert "no-such-benchmark" in done.stderr
        names = re.findall(r"dev\.py bench ([\w-]+)$", done.stderr, re.MULTILINE)
        assert {"speed", "fidelity", "tables"} <= set(names)
        assert names == sorted(set(names))

    def test_every_benchmark_has_a_name_of_its_own(self) -> None:
        known = benchmarks()
        files = [path for path in python_files("benchmarks") if "__main__" in (ROOT / path).read_text("utf-8")]
        assert sorted(known) == sorted(path.stem for path in files)
        assert {module.replace(".", "/") + ".py" for module in known.values()} == {path.as_posix() for path in files}


@pytest.mark.skipif(os.name == "nt", reason="a bash script")
def test_the_check_script_calls_dev_test_and_passes_its_code_on(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_bytes((ROOT / ".ci" / "run").read_bytes())
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (tmp_path / "dev.py").write_text("import sys; print(sys.argv[1:]); sys.exit(7)", encoding="utf-8")
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout.strip() == "['test']"
    assert done.returncode == 7
