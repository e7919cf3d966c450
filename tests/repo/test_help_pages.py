"""The help pages have one shape and a picture each that can be shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from repo_files import ROOT

DOCS = ROOT / "web" / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LARGEST = 60_000


@pytest.mark.parametrize("page", PAGES, ids=[path.stem for path in PAGES])
def test_a_page_has_a_picture_inputs_outputs_and_tips(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^#+ (.+)$", text, re.MULTILINE)[1:] == ["Inputs", "Outputs", "Tips"]
    (name,) = re.findall(r"^!\[.{20,}\]\((images/[\w-]+\.webp)\)$", text, re.MULTILINE)
    picture = DOCS / name
    assert picture.stat().st_size < LARGEST
    with Image.open(picture) as opened:
        assert opened.width >= 400


def test_no_picture_is_left_over() -> None:
    shown = [re.findall(r"\(images/([\w-]+\.webp)\)", page.read_text(encoding="utf-8")) for page in PAGES]
    used = {name for names in shown for name in names}
    assert {path.name for path in (DOCS / "images").iterdir()} == used
