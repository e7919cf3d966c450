"""`dev.py test`: linters and type checks, then every test folder in a process of its own.

Own processes because the core's tests must not find a ComfyUI, and because ComfyUI can be set up only once per process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import recipe
from .console import DevError, clean_environment, run_logged, say
from .existing_host import prepare
from .host_setup import NETWORK_ADVICE, PIP_LOG, make_venv, other_version
from .layout import CLI_VENV, LOGS, ROOT, STATE, Host, venv_program
from .links import link_folder
from .stages import Stage, run_stages

TESTS = ROOT / "tests"
REQUIRED = ("core", "host", "repo")  # a suite that vanished must not count as passed
NOTHING_COLLECTED = 5
SPREAD = ("benchmarks", "core", "host")  # what takes longest and drives no browser
MOST_WORKERS = 4  # each takes about 1.5 GB
# Type checks see the pack under a name, as ComfyUI does: its relative imports reach up to the repository root.
TYPING_FOLDER = STATE / "typing"
TYPED_PACK = "atedm_pack"
PACK = ("atedm_core", "report", "patches", "nodes")


@dataclass(frozen=True)
class Outcome:
    """How one check went."""

    name: str
    passed: bool
    seconds: float
    counts: str = ""

    def line(self) -> str:
        """One line of the summary."""
        return (
            f"  {'ok    ' if self.passed else 'FAILED'}  {self.name:<16} {self.seconds:6.1f} s  {self.counts}".rstrip()
        )


def suites() -> list[str]:
    """The test folders, core first because it is the quickest to tell."""
    found = sorted(path.name for path in TESTS.iterdir() if path.is_dir() and any(path.rglob("test_*.py")))
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise DevError(f"No tests found in {', '.join(f'tests/{name}' for name in missing)}.")
    return sorted(found, key=lambda name: (name != "core", name != "repo", name))


def prepare_cli() -> None:
    """comfy-cli in an environment of its own: its requirements are not ComfyUI's."""
    program = venv_program(CLI_VENV, "comfy")

    def install() -> None:
        make_venv(CLI_VENV)
        pip: list[str | Path] = [venv_program(CLI_VENV, "python"), "-m", "pip", "install", "--progress-bar", "off"]
        run_logged([*pip, recipe.CLI_REQUIREMENT], PIP_LOG, NETWORK_ADVICE)

    run_stages([Stage("comfy-cli", recipe.CLI_REQUIREMENT, install, program.exists)], STATE / "cli-stages.json")


def _check(name: str, command: Sequence[str], cwd: Path = ROOT) -> Outcome:
    say(f"\n--- {name}")
    began = time.monotonic()
    code = subprocess.run([str(part) for part in command], cwd=cwd, env=clean_environment(), check=False).returncode
    return Outcome(name, code == 0, time.monotonic() - began)


def _lint(host: Host) -> list[Outcome]:
    python = str(host.python)
    link_folder(TYPING_FOLDER / TYPED_PACK, ROOT)
    mypy = [
        python,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
    ]
    packages = [part for name in PACK for part in ("-p", f"{TYPED_PACK}.{name}")]
    return [
        _check("ruff check", [python, "-m", "ruff", "check", "."]),
        _check("ruff format", [python, "-m", "ruff", "format", "--check", "."]),
        _check("mypy pack", [*mypy, *packages], TYPING_FOLDER),
        _check("mypy devtools", [*mypy, "dev.py", "devtools"]),
    ]


def _counts(report: Path) -> tuple[int, str]:
    """How many tests a report holds, and in words how they went."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    if suite is None:
        return 0, "no report"
    total, failures, errors, skipped = (int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped"))
    words = [f"{total - failures - errors - skipped} passed"]
    others = {"failed": failures, "errors": errors, "skipped": skipped}
    words += [f"{number} {word}" for word, number in others.items() if number]
    return total, ", ".join(words)


def _run_suite(host: Host, suite: str, arguments: Sequence[str], partial: bool) -> tuple[Outcome, int]:
    report = LOGS / f"test-{suite}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    say(f"\n--- tests/{suite}")
    env = clean_environment({"OMP_NUM_THREADS": "1", "ATEDM_TEST_LOGS": str(LOGS)})
    if suite != "core":
        env.update(host.environment())
    else:
        env.pop("COMFYUI_PATH", None)
    began = time.monotonic()
    command = [str(host.python), "-m", "pytest", "-q", f"--junitxml={report}", *_workers(suite, partial), *arguments]
    code = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
    total, words = _counts(report) if report.is_file() else (0, "pytest did not get as far as a report")
    passed = (code == 0 and total > 0) or (partial and code == NOTHING_COLLECTED)
    return Outcome(f"tests/{suite}", passed, time.monotonic() - began, words), total


def _workers(suite: str, partial: bool) -> list[str]:
    """Long suites are spread over the cores by files, each process with a ComfyUI of its own where it needs one."""
    count = min(MOST_WORKERS, os.cpu_count() or 1)
    return [] if suite not in SPREAD or partial or count < 2 else ["-n", str(count), "--dist", "loadfile"]


def _split(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Which suites the given paths belong to, and the arguments that are no paths."""
    chosen: dict[str, list[str]] = {}
    other = []
    for argument in arguments:
        path = (ROOT / argument.split("::", 1)[0]).resolve()
        if argument.startswith("-") or not path.exists() or TESTS not in path.parents:
            other.append(argument)
        else:
            chosen.setdefault(path.relative_to(TESTS).parts[0], []).append(argument)
    return chosen, other


def run_checks(arguments: Sequence[str]) -> int:
    """Everything; with arguments only pytest, in the suites the named paths belong to (without a path: in all).

    `--host VERSION` in front runs tests/host, or what is named, on another ComfyUI.
    """
    host = prepare(dev_tools=True)
    if arguments[:1] == ["--host"]:
        host = other_version(next(iter(arguments[1:2]), ""), host)
        rest = arguments[2:]
        arguments = rest if _split(rest)[0] else ["tests/host", *rest]
    chosen, other = _split(arguments)
    outcomes = [] if arguments else _lint(host)
    if not chosen or "repo" in chosen:
        prepare_cli()
    total = 0
    for suite in suites():
        if chosen and suite not in chosen:
            continue
        paths = chosen.get(suite, [f"tests/{suite}"])
        outcome, ran = _run_suite(host, suite, [*paths, *other], partial=bool(arguments))
        outcomes.append(outcome)
        total += ran
    return _summary(outcomes, total)


def _summary(outcomes: Sequence[Outcome], total: int) -> int:
    say("\nSummary")
    for outcome in outcomes:
        say(outcome.line())
    failed = [outcome.name for outcome in outcomes if not outcome.passed]
    if total == 0:
        failed.append("no test ran")
    seconds = sum(outcome.seconds for outcome in outcomes)
    say(f"{total} tests, {seconds:.0f} s: " + (f"FAILED: {', '.join(failed)}" if failed else "all passed"))
    if failed:
        print("Exit code 1.", file=sys.stderr)
    return 1 if failed else 0
