"""The folder of one table: pictures as they come, what was measured of each, and the settings they were made with."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from devtools.console import DevError

from .work import Picture

PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
SHOWN = 5

Facts = dict[str, Any]


class Store:
    """Pictures as `pictures/ROW/INDEX-SEED.png`; `manifest.json`; `facts.jsonl`; `scores.json`.

    Args:
        folder: made if it is not there.

    Raises:
        DevError: it cannot be written, or is not what this command left there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._facts_file = folder / "facts.jsonl"
        self._lock = threading.Lock()
        try:
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
            with self._facts_file.open("a", encoding="utf-8"):
                pass
            self._write(folder / ".writable", b"")
            (folder / ".writable").unlink()
        except OSError as error:
            raise DevError(f"--out {folder} cannot be written: {error.strerror or error}. Name another.") from error
        self.manifest: dict[str, Any] = self._read("manifest.json")
        self._facts = dict(self._read_facts())
        self._there = {file for file in (folder / "pictures").glob("*/*.png") if _whole(file)}

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Take these settings for the folder; prompts and rows may be added to those it has.

        Raises:
            DevError: they contradict those that its pictures were made with.
        """
        settings = json.loads(json.dumps(settings))
        changed = list(_differences(self.manifest, settings))
        if changed:
            more = f"\n    and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            listed = "\n    ".join(changed[:SHOWN])
            raise DevError(
                f"{self.folder} holds pictures made with other settings:\n    {listed}{more}\n"
                "Name another folder with --out, or go back to the old settings to continue this one."
            )
        self.manifest = _merged(self.manifest, settings)
        self._write_json("manifest.json", self.manifest)

    def path(self, picture: Picture) -> Path:
        """Where it lies."""
        return self.folder / "pictures" / picture.row / f"{picture.index:05d}-{picture.seed}.png"

    def has(self, picture: Picture) -> bool:
        """Whether it is there, whole."""
        return self.path(picture) in self._there

    def keep(self, picture: Picture, png: bytes, facts: Facts) -> None:
        """Write a picture; whatever was measured of an older one in its place is forgotten."""
        path = self.path(picture)
        try:
            path.parent.mkdir(exist_ok=True)
            self._write(path, png)
            self._append(picture, {**facts, "new": True})
        except OSError as error:
            raise DevError(f"{path} cannot be written: {error.strerror or error}. What is drawn is kept.") from error
        with self._lock:
            self._there.add(path)

    def facts(self, picture: Picture) -> Facts:
        """What is known of a picture."""
        return self._facts.get(self._key(picture), {})

    def learn(self, picture: Picture, facts: Facts) -> None:
        """Keep what was measured."""
        self._append(picture, facts)

    @property
    def scores(self) -> dict[str, Any]:
        """Measures of whole rows that were kept."""
        return self._read("scores.json")

    def keep_score(self, measure: str, row: str, value: Facts) -> None:
        """Keep a measure of a whole row."""
        scores = self.scores
        scores.setdefault(measure, {})[row] = value
        self._write_json("scores.json", scores)

    def _key(self, picture: Picture) -> str:
        return f"{picture.row}/{picture.index}-{picture.seed}"

    def _append(self, picture: Picture, facts: Facts) -> None:
        key = self._key(picture)
        with self._lock:
            self._facts[key] = _learned(self._facts.get(key, {}), facts)
            with self._facts_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"picture": key, **facts}) + "\n")

    def _read_facts(self) -> Iterator[tuple[str, Facts]]:
        found: dict[str, Facts] = {}
        text = self._facts_file.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                key = entry.pop("picture")
            except (ValueError, KeyError, AttributeError):
                continue  # cut off by an interruption
            found[key] = _learned(found.get(key, {}), entry)
        if text and not text.endswith("\n"):
            with self._facts_file.open("a", encoding="utf-8") as file:
                file.write("\n")
        yield from found.items()

    def _read(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise DevError(f"{file} cannot be read ({error}). Move it away, or name another folder with --out.") from (
                error
            )
        return found if isinstance(found, dict) else {}

    def _write_json(self, name: str, content: Any) -> None:
        self._write(self.folder / name, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    def _write(self, file: Path, content: bytes) -> None:
        """In one move, so that an interruption never leaves half of it."""
        part = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            with part.open("wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)


def _learned(old: Facts, new: Facts) -> Facts:
    if new.get("new"):
        return {name: value for name, value in new.items() if name != "new"}
    return {**old, **new}


def _whole(file: Path) -> bool:
    with file.open("rb") as content:
        start = content.read(len(PNG_START))
        content.seek(0, os.SEEK_END)
        if content.tell() < len(PNG_START) + len(PNG_END):
            return False
        content.seek(-len(PNG_END), os.SEEK_END)
        return start == PNG_START and content.read() == PNG_END


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """What both say and say differently."""
    if isinstance(old, dict) and isinstance(new, dict):
        # the nodes of a workflow are compared whole: one more or less is another picture
        whole = name.endswith("nodes")
        for key in sorted(set(old) | set(new) if whole else set(old) & set(new)):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name}: {json.dumps(old)} there, {json.dumps(new)} now"


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: _merged(old.get(key), new.get(key, old.get(key))) for key in {**old, **new}}
    return new
