"""Several threads of which one works at a time, changing wherever they say so: what they do is the same every time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

PassOn = Callable[[], None]
LONGEST = 300.0


def in_turns(works: Sequence[Callable[[PassOn], Any]]) -> list[Any]:
    """What each work gives, in a thread of its own. Each is handed a function that lets the next one go on.

    Raises:
        Exception: what the first work that failed raised.
    """
    turns, found, failed = _Turns(len(works)), [None] * len(works), {}

    def run(number: int) -> None:
        turns.await_turn(number)
        try:
            found[number] = works[number](lambda: turns.pass_on(number))
        except Exception as error:
            failed[number] = error
        finally:
            turns.end(number)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST)
    for number in sorted(failed):
        raise failed[number]
    return found


class _Turns:
    """Whose turn it is."""

    def __init__(self, count: int) -> None:
        self._there = list(range(count))
        self._whose = 0
        self._changed = threading.Condition()

    def await_turn(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._whose == number)

    def pass_on(self, number: int) -> None:
        with self._changed:
            self._next(number)
            self._changed.wait_for(lambda: self._whose == number)

    def end(self, number: int) -> None:
        with self._changed:
            self._next(number)
            self._there.remove(number)

    def _next(self, number: int) -> None:
        self._whose = self._there[(self._there.index(number) + 1) % len(self._there)]
        self._changed.notify_all()
