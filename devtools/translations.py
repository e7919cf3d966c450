"""Translations of the nodes' texts, the plot's texts and the help pages: what is missing or behind the English.

    python -m devtools.translations              how far every language is
    python -m devtools.translations fr           the English texts that French lacks, or has from an older wording
    python -m devtools.translations --record     after translating: note what every translation was made from
    python -m devtools.translations --record --still-right docs/ATEDMApply
                                                 the same, for translations that an English change leaves right

Run it with the environment's Python. English stands in the nodes' schemas, in locales/en/main.json and in
web/docs/<node>.md; a translation in locales/<language>/nodeDefs.json and main.json, and in
web/docs/<node>/<language>.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .commands import link_packs
from .console import say
from .layout import PACK_FOLDER, ROOT, Host, current_host
from .server import Server

LANGUAGES = ("ar", "es", "fa", "fr", "ja", "ko", "pt-BR", "ru", "tr", "zh", "zh-TW")
RECORD = Path("devtools") / "translated_from.json"
FILES = ("nodeDefs", "main")
PLACES = re.compile(r"\{\w+\}")
# what a page must have in common with the English one, line by line: headings, table rows, list items, pictures
SHAPE = re.compile(r"^(#+ |\| `\w+`|\| ---|- |!\[)", re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")

Texts = dict[str, str]


@dataclass(frozen=True)
class Fault:
    """What is wrong with one text in one language: missing, outdated, broken or left over."""

    language: str
    key: str
    kind: str

    def __str__(self) -> str:
        return f"{self.language}: {self.key} is {self.kind}"


def _flat(value: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{path}/{key}")
        else:
            yield f"{path}/{key}", str(inner)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def node_texts(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of the pack's nodes as the server gives them, in the form of a nodeDefs.json."""
    own = {name: info for name, info in object_info.items() if info["python_module"] == f"custom_nodes.{PACK_FOLDER}"}
    return {name: _one_node(info) for name, info in own.items()}


def _one_node(info: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {
        name: {"name": name, "tooltip": spec[1]["tooltip"]}
        for group in ("required", "optional")
        for name, spec in info["input"].get(group, {}).items()
    }
    outputs = {
        str(number): {"name": name, "tooltip": tooltip}
        for number, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
    }
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        "outputs": outputs,
    }


def english(root: Path, object_info: Mapping[str, Any]) -> Texts:
    """Every text there is to translate."""
    nodes = node_texts(object_info)
    texts = dict(_flat(nodes, "nodeDefs"))
    texts.update(_flat(_json(root / "locales" / "en" / "main.json"), "main"))
    for name in nodes:
        texts[f"docs/{name}"] = (root / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
    return texts


def translated(root: Path, language: str) -> Texts:
    """Every text there is in a language."""
    texts: Texts = {}
    for name in FILES:
        texts.update(_flat(_json(root / "locales" / language / f"{name}.json"), name))
    for page in sorted((root / "web" / "docs").glob(f"*/{language}.md")):
        texts[f"docs/{page.parent.name}"] = page.read_text(encoding="utf-8")
    return texts


def _print(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _broken(source: str, text: str) -> bool:
    """Whether a translation lost a place to fill in, a table row, a heading, a picture or a name in code."""
    if not text.strip():
        return True
    if source.startswith("# "):
        lost = set(CODE.findall(source)) - set(CODE.findall(text))
        return bool(lost) or SHAPE.findall(source) != SHAPE.findall(text)
    return sorted(PLACES.findall(source)) != sorted(PLACES.findall(text))


def _english_copies(root: Path, sources: Texts) -> Iterator[tuple[str, Path, str]]:
    """Key, place and text of the English pages under the name by which the frontend asks first.

    It would find the page without a language in its name all the same, after an error in the browser's console.
    """
    for key, text in sources.items():
        if key.startswith("docs/"):
            yield key, root / "web" / "docs" / key.removeprefix("docs/") / "en.md", text


def faults(root: Path, object_info: Mapping[str, Any]) -> list[Fault]:
    """Everything that is not as it should be, in all languages."""
    sources, record = english(root, object_info), _json(root / RECORD)
    found = []
    for key, copy, text in _english_copies(root, sources):
        if not copy.is_file():
            found.append(Fault("en", key, "missing"))
        elif copy.read_text(encoding="utf-8") != text:
            found.append(Fault("en", key, "outdated"))
    for language in LANGUAGES:
        texts, noted = translated(root, language), record.get(language, {})
        for key, source in sources.items():
            if key not in texts:
                found.append(Fault(language, key, "missing"))
            elif noted.get(key) != f"{_print(source)}-{_print(texts[key])}":
                found.append(Fault(language, key, "outdated"))
            elif _broken(source, texts[key]):
                found.append(Fault(language, key, "broken"))
        found += [Fault(language, key, "left over") for key in texts if key not in sources]
    return found


def record(root: Path, object_info: Mapping[str, Any], still_right: Sequence[str] = ()) -> None:
    """Note for every translation which English it stands for; copy the English pages to where they are asked for.

    A translation that has not changed since its English did stays outdated, unless its key begins with one of
    `still_right`.
    """
    sources, noted = english(root, object_info), _json(root / RECORD)
    fresh: dict[str, Texts] = {}
    for language in LANGUAGES:
        old = noted.get(language, {})
        fresh[language] = {}
        for key, text in translated(root, language).items():
            before, now = old.get(key, "-"), f"{_print(sources.get(key, ''))}-{_print(text)}"
            moved = before.split("-")[0] != now.split("-")[0] and before.split("-")[1] == now.split("-")[1]
            kept = moved and not key.startswith(tuple(still_right))
            if key in sources:
                fresh[language][key] = before if kept else now
    for _, copy, text in _english_copies(root, sources):
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
    (root / RECORD).write_text(json.dumps(fresh, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _object_info() -> dict[str, Any]:
    found = current_host()
    with tempfile.TemporaryDirectory(prefix="atedm-translations-", ignore_cleanup_errors=True) as folder:
        base = Path(folder).resolve()
        link_packs(base, demo=False)
        with Server(Host(found.comfyui, found.python, base), base / "server.log", cpu=True, threads=1) as server:
            return dict(server.get("/object_info"))


def _tell(found: Sequence[Fault], sources: Texts, language: str | None) -> None:
    if language is None:
        for name in ("en", *LANGUAGES):
            kinds = [fault.kind for fault in found if fault.language == name]
            counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
            say(f"{name:<6} {counts or 'complete'}")
        return
    for fault in found:
        if fault.language == language:
            say(f"--- {fault.key} is {fault.kind}\n{sources.get(fault.key, '')}")


def main(arguments: Sequence[str]) -> int:
    """Say how things stand; with `--record`, note it first."""
    parser = argparse.ArgumentParser(prog="devtools.translations", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("language", nargs="?", choices=LANGUAGES)
    parser.add_argument("--record", action="store_true", help="note what every translation was made from")
    parser.add_argument("--still-right", nargs="+", default=(), metavar="KEY", help="keys, or how they begin")
    given = parser.parse_args(arguments)
    object_info = _object_info()
    if given.record:
        record(ROOT, object_info, given.still_right)
    found = faults(ROOT, object_info)
    _tell(found, english(ROOT, object_info), given.language)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
