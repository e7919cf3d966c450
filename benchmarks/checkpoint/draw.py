"""One thread per server: takes a picture, has it drawn, keeps it, until none is left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from demo.workflow import Sampling, Workflow
from devtools.client import PromptError
from devtools.console import DevError

from .servers import Drawn, Remote, ServerLostError
from .work import Picture, Work

JOIN_SECONDS = 1.0


@dataclass(frozen=True)
class Patience:
    """With servers that are gone, in seconds.

    Attributes:
        retry: before a dropped server is tried again; doubles each time.
        longest: that it doubles to.
        alone: how long to wait for a server when none is left.
    """

    retry: float = 15.0
    longest: float = 240.0
    alone: float = 60.0


def draw_all(
    work: Work,
    remotes: Sequence[Remote],
    sampling: Sampling,
    make: Callable[[Picture, Remote], Workflow],
    keep: Callable[[Picture, Drawn, Remote], None],
    tick: Callable[[int], None],
    patience: Patience,
) -> None:
    """Draw everything that is left.

    Args:
        work: what is left.
        remotes: servers, already checked.
        sampling: that servers are checked for when they come back.
        make: the workflow of a picture for a server.
        keep: stores a picture; called from several threads.
        tick: told how many pictures are finished.
        patience: with servers that are gone.

    Raises:
        DevError: no server is left, or a picture could not be stored.
    """

    def serve(remote: Remote) -> None:
        try:
            while (picture := work.take(remote.address)) is not None:
                if not one(picture, remote) and not _comes_back(remote, work, sampling, patience):
                    return
        except BaseException as error:
            work.stop(error)

    def one(picture: Picture, remote: Remote) -> bool:
        """Whether the server is still there after this picture."""
        try:
            drawn = remote.draw(make(picture, remote))
        except ServerLostError as loss:
            work.lost(picture, remote.address, str(loss))
            return False
        except PromptError as failure:
            return not work.failed(picture, remote.address, str(failure))
        keep(picture, drawn, remote)
        work.done(picture, remote.address)
        return True

    # daemons: an interruption must not wait for a picture that takes minutes
    threads = [threading.Thread(target=serve, args=(remote,), daemon=True) for remote in remotes]
    for thread in threads:
        thread.start()
    try:
        work.wait(patience.alone, tick)
    except BaseException as error:
        work.stop(error)
        for remote in remotes:
            remote.cancel()
        raise
    for thread in threads:
        thread.join(JOIN_SECONDS)  # one may be asking a dropped server that hangs


def _comes_back(remote: Remote, work: Work, sampling: Sampling, patience: Patience) -> bool:
    pause = patience.retry
    while work.pause(pause):
        try:
            remote.check(sampling)
        except DevError:
            pause = min(2 * pause, patience.longest)
            continue
        work.back(remote.address)
        return True
    return False
