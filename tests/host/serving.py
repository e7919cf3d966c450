"""A ComfyUI server for tests, in a base folder of its own that goes with the process."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devtools.layout import Host, current_host
from devtools.links import make_base
from devtools.server import Server


def make_own_base() -> Path:
    """A fresh base folder; gone when the process ends."""
    base = Path(tempfile.mkdtemp(prefix="atedm-test-")).resolve()
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    make_base(base)
    return base


@contextmanager
def running_server(base: Path) -> Iterator[Server]:
    """A server on the CPU that writes to `base` only; its log lies where ATEDM_TEST_LOGS says, else in `base`."""
    found = current_host()
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    log = Path(os.environ.get("ATEDM_TEST_LOGS", base)) / f"test-server-{worker}.log"
    with Server(Host(found.comfyui, found.python, base), log, cpu=True, threads=1) as running:
        yield running
