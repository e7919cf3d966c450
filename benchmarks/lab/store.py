"""What has been drawn and measured, on disk at once: an interrupted sweep goes on where it stopped.

Pictures lie in one file per case and batch, measures in JSON lines, one file per worker so that none waits for another.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .captions import CaptionSet
from .cases import Case
from .drawing import Drawn, Trajectory


@dataclass(frozen=True)
class Spot:
    """One case against one reference on one batch of captions."""

    case: str
    reference: str
    captions: CaptionSet
    batch: int


class Store:
    """The folder of one sweep.

    Args:
        folder: made if it is not there.
        worker: a name for the file that this process writes measures to.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, worker: str = "0") -> None:
        self._folder = folder
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        self._own = folder / f"measures-{worker}.jsonl"
        with self._own.open("a", encoding="utf-8"):
            pass  # better now than after the first picture
        self._measured: dict[Spot, list[dict[str, Any]]] = {}
        self.reload()

    def reload(self) -> None:
        """Read what all workers have measured so far."""
        self._measured.clear()
        for file in sorted(self._folder.glob("measures-*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the line that an interruption cut off
                self._measured[Spot(**entry["spot"])] = entry["pictures"]

    def has(self, spot: Spot) -> bool:
        """Whether it has been measured."""
        return spot in self._measured

    def measures(self, spot: Spot) -> list[dict[str, Any]]:
        """One dictionary per picture of the batch; empty if it has not been measured."""
        return self._measured.get(spot, [])

    def add(self, spot: Spot, pictures: list[dict[str, Any]]) -> None:
        """Keep measures."""
        self._measured[spot] = pictures
        with self._own.open("a", encoding="utf-8") as file:
            # what an interruption cut off must not swallow this line too
            prefix = "\n" if file.tell() and not _ends_line(self._own) else ""
            file.write(prefix + json.dumps({"spot": asdict(spot), "pictures": pictures}) + "\n")

    def load(self, case: Case, captions: CaptionSet, batch: int) -> Drawn | None:
        """A batch of pictures drawn before."""
        file = self._file(case, captions, batch)
        try:
            with np.load(file) as found:
                trajectory = None
                if "sigmas" in found:
                    trajectory = Trajectory(found["sigmas"], found["latents_of_steps"], found["predictions"])
                return Drawn(found["latents"], found["pictures"], json.loads(str(found["info"])), trajectory)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None

    def keep(self, case: Case, captions: CaptionSet, batch: int, drawn: Drawn) -> None:
        """Keep a batch of pictures."""
        content: dict[str, Any] = {"latents": drawn.latents, "pictures": drawn.pictures}
        content["info"] = json.dumps(drawn.info)
        if drawn.trajectory is not None:
            content |= {"sigmas": drawn.trajectory.sigmas, "latents_of_steps": drawn.trajectory.latents}
            content["predictions"] = drawn.trajectory.predictions
        file = self._file(case, captions, batch)
        part = file.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as out:
            np.savez_compressed(out, **content)
        part.replace(file)

    def forget(self, cases: Iterable[Case]) -> None:
        """Drop what is known of these cases, to run them anew."""
        keys = {case.key for case in cases}
        for key in keys:
            for file in (self._folder / "runs").glob(f"{key}-*.npz"):
                file.unlink()
        kept = {spot: pictures for spot, pictures in self._measured.items() if spot.case not in keys}
        for file in self._folder.glob("measures-*.jsonl"):
            file.unlink()
        self._measured = {}
        for spot, pictures in kept.items():
            self.add(spot, pictures)

    def _file(self, case: Case, captions: CaptionSet, batch: int) -> Path:
        return self._folder / "runs" / f"{case.key}-{captions}-{batch:03d}.npz"


def _ends_line(file: Path) -> bool:
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read(1) == b"\n"
