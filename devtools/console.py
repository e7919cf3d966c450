"""Talking to the person at the terminal: errors with a way out, stages with times, logged commands."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HEARTBEAT_SECONDS = 20.0
TAIL_LINES = 25

Command = Sequence[str | Path]


class DevError(Exception):
    """Something a person has to know: what was wrong and what to do about it."""


def say(text: str) -> None:
    """Print at once, also where the output goes into a pipe."""
    print(text, flush=True)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, indented; empty when there is none."""
    if not log.is_file():
        return ""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in text[-lines:])


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of our child processes: no foreign Python path, UTF-8, quiet pip."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    env.update(PYTHONUTF8="1", PYTHONUNBUFFERED="1", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    env.update(extra or {})
    return env


def run_logged(command: Command, log: Path, advice: str, cwd: Path | None = None) -> None:
    """Run a command with its output in `log`; on failure show the end of it and say what to do."""
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = [str(part) for part in command]
    with log.open("a", encoding="utf-8") as sink:
        sink.write(f"\n$ {' '.join(arguments)}\n")
        sink.flush()
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, cwd=cwd, env=clean_environment()
        )
        try:
            code = _wait(process)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code != 0:
        raise DevError(
            f"This command ended with code {code}:\n    {' '.join(arguments)}\n{tail(log)}\n{advice}\nLog: {log}"
        )


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the process and show every now and then that it is still alive."""
    start = time.monotonic()
    while True:
        try:
            return process.wait(timeout=HEARTBEAT_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"      still working, {time.monotonic() - start:.0f} s")
