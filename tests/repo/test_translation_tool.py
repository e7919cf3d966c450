"""devtools.translations: what it calls missing, outdated, broken and left over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devtools import translations
from devtools.layout import PACK_FOLDER, ROOT
from devtools.translations import faults, record

PAGE = "# Node\n\nWords.\n\n## Inputs\n\n| Parameter |\n| --- |\n| `ratio` | Share. |\n"
TRANSLATED = "# Nœud\n\nMots.\n\n## Entrées\n\n| Paramètre |\n| --- |\n| `ratio` | Part. |\n"


def object_info(tooltip: str = "A share.") -> dict[str, Any]:
    node = {
        "python_module": f"custom_nodes.{PACK_FOLDER}",
        "display_name": "Node",
        "description": "Does it.",
        "input": {"required": {"ratio": ["FLOAT", {"tooltip": tooltip}]}, "optional": {}},
        "output_name": ["model"],
        "output_tooltips": ["The model."],
    }
    return {"Node": node, "Foreign": {**node, "python_module": "nodes"}}


def write(root: Path, path: str, value: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one node with one language, all translated and recorded."""
    monkeypatch.setattr(translations, "LANGUAGES", ("fr",))
    (tmp_path / "devtools").mkdir()
    write(tmp_path, "web/docs/Node.md", PAGE)
    write(tmp_path, "web/docs/Node/fr.md", TRANSLATED)
    write(tmp_path, "locales/en/main.json", {"AT-EDM": {"plot": {"note": "For {ratio}."}}})
    write(tmp_path, "locales/fr/main.json", {"AT-EDM": {"plot": {"note": "Pour {ratio}."}}})
    node = {
        "display_name": "Nœud",
        "description": "Le fait.",
        "inputs": {"ratio": {"name": "taux", "tooltip": "Une part."}},
        "outputs": {"0": {"name": "modèle", "tooltip": "Le modèle."}},
    }
    write(tmp_path, "locales/fr/nodeDefs.json", {"Node": node})
    record(tmp_path, object_info())
    return tmp_path


def told(root: Path, info: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    return [(fault.key, fault.kind) for fault in faults(root, info or object_info())]


def test_all_is_well_when_all_is_translated(root: Path) -> None:
    assert told(root) == []
    assert len(json.loads((root / translations.RECORD).read_text(encoding="utf-8"))["fr"]) == 8


def test_a_changed_english_text_makes_its_translation_outdated(root: Path) -> None:
    changed = object_info(tooltip="A large share.")
    assert told(root, changed) == [("nodeDefs/Node/inputs/ratio/tooltip", "outdated")]
    record(root, changed)  # noting it without having translated it does not help
    assert told(root, changed) == [("nodeDefs/Node/inputs/ratio/tooltip", "outdated")]
    record(root, changed, still_right=["nodeDefs/Node"])
    assert told(root, changed) == []


def test_a_changed_page_is_translated_and_recorded(root: Path) -> None:
    write(root, "web/docs/Node.md", PAGE.replace("Words", "Other words"))
    assert told(root) == [("docs/Node", "outdated"), ("docs/Node", "outdated")]  # the copy, and the French page
    write(root, "web/docs/Node/fr.md", TRANSLATED.replace("Mots", "Autres mots"))
    record(root, object_info())
    assert told(root) == []
    assert (root / "web" / "docs" / "Node" / "en.md").read_text(encoding="utf-8") == PAGE.replace(
        "Words", "Other words"
    )


def test_a_lost_text_is_missing_and_a_strange_one_left_over(root: Path) -> None:
    write(root, "locales/fr/main.json", {"AT-EDM": {"plot": {"notes": "Pour {ratio}."}}})
    assert told(root) == [("main/AT-EDM/plot/note", "missing"), ("main/AT-EDM/plot/notes", "left over")]


@pytest.mark.parametrize(
    ("path", "text", "key"),
    [
        ("web/docs/Node/fr.md", TRANSLATED.replace("| `ratio` | Part. |\n", ""), "docs/Node"),
        ("web/docs/Node/fr.md", TRANSLATED.replace("`ratio`", "`taux`"), "docs/Node"),
        ("locales/fr/main.json", '{"AT-EDM": {"plot": {"note": "Pour {taux}."}}}', "main/AT-EDM/plot/note"),
        ("locales/fr/main.json", '{"AT-EDM": {"plot": {"note": " "}}}', "main/AT-EDM/plot/note"),
    ],
)
def test_a_translation_without_what_code_and_readers_need_is_broken(root: Path, path: str, text: str, key: str) -> None:
    write(root, path, text)
    record(root, object_info())
    assert told(root) == [(key, "broken")]


def test_every_language_of_comfyui_has_a_folder() -> None:
    folders = {path.name for path in (ROOT / "locales").iterdir() if path.is_dir()}
    assert folders == {"en", *translations.LANGUAGES}
