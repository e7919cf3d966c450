"""What is left to draw, shared by the threads that serve one server each.

A picture that a server does not bring back goes to the next one. A server is dropped when it is lost, or when it fails
at several workflows in a row; it may come back. A row of which a
picture fails twice, on two servers where there are two, is given up.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from devtools.console import DevError

FAILURES_PER_PICTURE = 2
FAILURES_IN_A_ROW = 3


@dataclass(frozen=True)
class Picture:
    """One to draw: of which row, of which prompt, with which seed."""

    row: str
    index: int
    seed: int


class Work:
    """A queue that loses nothing.

    Args:
        pictures: to draw, in this order; all of one prompt go to one server as long as others have their own to do,
            because pictures are compared, and servers may round differently.
        servers: their addresses.
        tell: for one line about whatever a person should know.
    """

    def __init__(self, pictures: Iterable[Picture], servers: Iterable[str], tell: Callable[[str], None]) -> None:
        self.given_up: dict[str, str] = {}
        self.finished = 0
        self._changed = threading.Condition()
        self._waiting = OrderedDict.fromkeys(pictures)
        self._under_way: dict[Picture, str] = {}
        self._failures: dict[Picture, list[str]] = {}
        self._in_a_row: dict[str, int] = {}
        self._owners: dict[int, str] = {}
        self._alive = set(servers)
        self._alone_since = 0.0
        self._last_loss = ""
        self._error: BaseException | None = None
        self._tell = tell

    def take(self, server: str) -> Picture | None:
        """The next picture for a server, waiting while others may hand some back; `None` when all is over."""
        with self._changed:
            while not self._over():
                picture = self._choose(server)
                if picture is not None:
                    del self._waiting[picture]
                    self._under_way[picture] = server
                    self._owners.setdefault(picture.index, server)
                    return picture
                self._changed.wait()
            return None

    def done(self, picture: Picture, server: str) -> None:
        """It is drawn and kept."""
        with self._changed:
            del self._under_way[picture]
            self._in_a_row[server] = 0
            self.finished += 1
            self._changed.notify_all()

    def lost(self, picture: Picture, server: str, reason: str) -> None:
        """The server is gone; its picture goes back."""
        with self._changed:
            self._hand_back(picture)
            self._drop(server, reason)

    def failed(self, picture: Picture, server: str, reason: str) -> bool:
        """The workflow failed; returns whether the server is dropped for failing too often."""
        with self._changed:
            self._hand_back(picture)
            failures = self._failures.setdefault(picture, [])
            failures.append(server)
            if len(failures) >= FAILURES_PER_PICTURE and picture.row not in self.given_up:
                self._give_up(picture.row, reason)
            self._in_a_row[server] = self._in_a_row.get(server, 0) + 1
            dropped = self._in_a_row[server] >= FAILURES_IN_A_ROW
            if dropped:
                self._in_a_row[server] = 0
                self._drop(server, f"{FAILURES_IN_A_ROW} workflows in a row failed there; the last: {reason}")
            self._changed.notify_all()
            return dropped

    def back(self, server: str) -> None:
        """A dropped server draws again."""
        with self._changed:
            self._alive.add(server)
            self._tell(f"{server} is back.")
            self._changed.notify_all()

    def pause(self, seconds: float) -> bool:
        """Wait, unless all is over before; returns whether there is still something to do."""
        with self._changed:
            self._changed.wait_for(self._over, seconds)
            return not self._over()

    def stop(self, error: BaseException) -> None:
        """End it all because of an error."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def wait(self, patience: float, tick: Callable[[int], None], seconds: float = 0.2) -> None:
        """Wait until everything is drawn; `tick` is told every now and then how many are.

        Args:
            patience: seconds to wait for a server when none is left.
            tick: called with the number of pictures finished.
            seconds: between ticks.

        Raises:
            DevError: no server is left.
        """
        while self.pause(seconds):
            with self._changed:
                tick(self.finished)
                alone = not self._alive and time.monotonic() - self._alone_since > patience
            if alone:
                self.stop(DevError(f"No server is left. The last that went: {self._last_loss}"))
        tick(self.finished)
        if self._error is not None:
            raise self._error

    def _over(self) -> bool:
        return self._error is not None or not (self._waiting or self._under_way)

    def _choose(self, server: str) -> Picture | None:
        fresh = (one for one in self._waiting if server not in self._failures.get(one, ()))
        others: Picture | None = None
        for picture in fresh:
            if self._owners.get(picture.index, server) == server:
                return picture
            others = others or picture
        if others is not None:
            return others
        return next(iter(self._waiting), None) if self._alive == {server} else None

    def _hand_back(self, picture: Picture) -> None:
        del self._under_way[picture]
        if picture.row not in self.given_up:
            self._waiting[picture] = None
            self._waiting.move_to_end(picture, last=False)
        self._changed.notify_all()

    def _give_up(self, row: str, reason: str) -> None:
        self.given_up[row] = reason
        for picture in [one for one in self._waiting if one.row == row]:
            del self._waiting[picture]
        self._tell(f"Given up: row {row}: {reason}")

    def _drop(self, server: str, reason: str) -> None:
        self._alive.discard(server)
        self._alone_since, self._last_loss = time.monotonic(), reason
        self._owners = {index: owner for index, owner in self._owners.items() if owner != server}
        if self._error is None:  # our own server goes with us
            self._tell(f"Dropped for now: {server}: {reason}")
        self._changed.notify_all()
