"""Prompts from a file: plain text with one a line, a JSON list, or captions in COCO's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from devtools.console import DevError

WANTED = "Give a text file in UTF-8 with one prompt a line, a JSON list of strings, or COCO's captions_*.json."


def read_prompts(file: Path, count: int | None = None) -> list[str]:
    """The first `count` prompts of a file, or all of them.

    Raises:
        DevError: the file cannot be read, is not UTF-8, holds no prompts, or fewer than `count`.
    """
    text = _text(file)
    found = _from_json(file, text) if file.suffix.lower() == ".json" else [line.strip() for line in text.splitlines()]
    prompts = [prompt for prompt in found if prompt]
    if not prompts:
        raise DevError(f"--prompts {file} holds no prompt. {WANTED}")
    if count is not None and count > len(prompts):
        raise DevError(f"--count is {count}, but --prompts {file} holds {len(prompts)}: ask for that many or fewer.")
    return prompts[:count]


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DevError(f"--prompts {file} cannot be read: {error.strerror or error}. {WANTED}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DevError(
            f"--prompts {file} is not UTF-8: byte {error.start} (line {line}) cannot be read. "
            "Save it again with the encoding UTF-8."
        ) from error
    if "\0" in text:  # UTF-16 without accents is valid UTF-8 all the same
        raise DevError(f"--prompts {file} is no text in UTF-8: it holds zero bytes. Save it with the encoding UTF-8.")
    return text


def _from_json(file: Path, text: str) -> list[str]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DevError(f"--prompts {file} ends in .json and is not JSON: {error}. {WANTED}") from error
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = _captions(file, content["annotations"])
    if not isinstance(content, list) or not all(isinstance(one, str) for one in content):
        raise DevError(f"--prompts {file} is neither a list of strings nor COCO captions. {WANTED}")
    return [" ".join(one.split()) for one in content]


def _captions(file: Path, annotations: list[Any]) -> list[str]:
    """The first caption of every image, in the order of the images' numbers."""
    first: dict[int, tuple[int, str]] = {}
    try:
        for one in annotations:
            entry = (int(one["id"]), str(one["caption"]))
            first[int(one["image_id"])] = min(first.get(int(one["image_id"]), entry), entry)
    except (KeyError, TypeError, ValueError) as error:
        raise DevError(
            f"--prompts {file} looks like COCO's JSON, but its annotations are no captions ({error!r}): "
            "instances_*.json has none, captions_*.json has."
        ) from error
    return [first[image][1] for image in sorted(first)]
