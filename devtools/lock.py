"""One setup at a time per checkout. The lock is the operating system's: it goes with the process that holds it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .console import say

POLL_SECONDS = 0.5


def _try(file: IO[bytes]) -> bool:
    """Take the lock if nobody has it; on a file system without locks there is nothing to wait for."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


@contextmanager
def only_one(place: Path) -> Iterator[None]:
    """Wait until no other process is inside with the same file, then go in."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("ab") as file:
        waiting = False
        while not _try(file):
            if not waiting:
                say("Another dev.py is setting things up in this checkout: waiting for it.")
                waiting = True
            time.sleep(POLL_SECONDS)
        yield
