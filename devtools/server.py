"""Starting and stopping a headless ComfyUI server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from .client import Client
from .console import DevError, clean_environment, tail
from .layout import Host

START_SECONDS = 240.0
STOP_SECONDS = 15.0
# A device can say that it is there and take no tensor, as the GPU of a virtual Mac does: it has to compute something.
# torch.accelerator came with 2.6; before that, CUDA and ROCm (by the same name) are all there is to ask for.
HAS_ACCELERATOR = """
import torch
found = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
raise SystemExit((torch.ones(1, device=found or "cuda") + 1).item() != 2)
"""


def free_port() -> int:
    """A TCP port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether this port can be listened on."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def has_accelerator(python: Path) -> bool:
    """Whether this Python's torch can use a GPU of any make."""
    return (
        subprocess.run(
            [python, "-c", HAS_ACCELERATOR], capture_output=True, check=False, env=clean_environment()
        ).returncode
        == 0
    )


def server_command(host: Host, port: int, cpu: bool, extra: Sequence[str] = ()) -> list[str]:
    """The command line of a server that asks nothing from outside and writes to its own base folder only."""
    command = [str(host.python), str(host.comfyui / "main.py"), "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(host.base), "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
    if cpu:
        # the CPU's default attention is several times slower
        command += ["--cpu", "--use-pytorch-cross-attention"]
    return [*command, *extra]


def server_environment(cpu: bool, threads: int | None = None) -> dict[str, str]:
    """The environment of a server process."""
    env = clean_environment() if threads is None else clean_environment({"OMP_NUM_THREADS": str(threads)})
    if cpu:
        # Threads that spin while they wait make everything several times slower as soon as the machine has other work.
        env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return env


class Server(Client):
    """A ComfyUI server as a context manager, reachable through the client's methods while inside."""

    def __init__(
        self, host: Host, log: Path, *, cpu: bool | None = None, extra: Sequence[str] = (), threads: int | None = None
    ) -> None:
        super().__init__(f"http://127.0.0.1:{free_port()}")
        self.host = host
        self.log_file = log
        self.start_seconds = 0.0
        self._cpu = not has_accelerator(host.python) if cpu is None else cpu
        self._extra = extra
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        port = int(self.address.rsplit(":", 1)[1])
        command = server_command(self.host, port, self._cpu, self._extra)
        began = time.monotonic()
        with self.log_file.open("wb") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=self.host.base,
                env=server_environment(self._cpu, self._threads),
                start_new_session=sys.platform != "win32",  # so that Ctrl-C reaches us first
            )
        try:
            self._wait_until_up(began)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.monotonic() - began
        return self

    def _wait_until_up(self, began: float) -> None:
        while not self.answers():
            if self._process is not None and self._process.poll() is not None:
                raise DevError(f"ComfyUI ended while starting (code {self._process.returncode}):\n{self._log_end()}")
            if time.monotonic() - began > START_SECONDS:
                raise DevError(f"ComfyUI did not answer within {START_SECONDS:.0f} s:\n{self._log_end()}")
            time.sleep(0.1)

    def _log_end(self) -> str:
        return f"{tail(self.log_file)}\nLog: {self.log_file}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process_id(self) -> int:
        """Of the server.

        Raises:
            DevError: it was not started.
        """
        if self._process is None:
            raise DevError("This server was not started.")
        return self._process.pid

    def alive(self) -> bool:
        """Whether the server process still runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ask the server to end; kill it when it does not."""
        if self._process is None or self._process.poll() is not None:
            return
        if sys.platform == "win32":
            self._process.terminate()
        else:
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """What the server has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")
