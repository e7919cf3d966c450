"""Which Chromium is driven, and what is said where there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from chromium import ADVICE, PLACES, find_chromium


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with no browser on the path, and a folder that is on it."""
    monkeypatch.delenv("CHROMIUM_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(PLACES, sys.platform, ())
    return tmp_path


def program(folder: Path, name: str) -> Path:
    made = folder / (f"{name}.exe" if os.name == "nt" else name)
    made.touch(mode=0o755)
    return made


def test_none_is_found_where_there_is_none(bare: Path) -> None:
    assert find_chromium(str(bare / "not-downloaded")) is None
    assert "apt install chromium" in ADVICE
    assert "CHROMIUM_PATH" in ADVICE


def test_an_installed_one_comes_before_playwrights_own(bare: Path) -> None:
    own = program(bare, "playwrights-own")
    assert find_chromium(str(own)) == own
    installed = program(bare, "chromium")
    assert find_chromium(str(own)) == installed


def test_a_named_one_comes_first_and_must_be_there(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare, "chromium")
    named = program(bare, "named")
    monkeypatch.setenv("CHROMIUM_PATH", str(named))
    assert find_chromium("") == named
    monkeypatch.setenv("CHROMIUM_PATH", str(bare / "gone"))
    with pytest.raises(FileNotFoundError, match="gone: no such file"):
        find_chromium("")
