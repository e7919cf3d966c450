"""CONTRIBUTING.md names what is there; the issue forms are such as GitHub shows, and ask for the line in the log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from repo_files import ROOT

GUIDE = ROOT / "CONTRIBUTING.md"
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"
FORMS = sorted(path for path in TEMPLATES.glob("*.yml") if path.name != "config.yml")
REPORTS = ("bug_report.yml", "picture_or_speed.yml")
ASKING = {"input", "textarea", "dropdown", "checkboxes"}
PATH = re.compile(r"[\w.-]+/[\w./-]*|[\w-]+\.(md|py|toml|json)")
MADE_BY_DEV = ".venv"
BLOB = "/blob/main/"


def mentioned(text: str) -> list[str]:
    """Every path in code or in a link of a document, in order and once."""
    code = re.findall(r"`([^`\n]+)`|^ {4,}(.+)$", text, re.MULTILINE)
    words = [word for pair in code for word in "".join(pair).split()]
    words += [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    paths = [word for word in words if PATH.fullmatch(word) and not word.startswith(MADE_BY_DEV)]
    return list(dict.fromkeys(paths))


def guide() -> str:
    return GUIDE.read_text(encoding="utf-8") if GUIDE.is_file() else ""


def form(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def questions(path: Path) -> dict[str, dict[str, Any]]:
    return {part["id"]: part for part in form(path)["body"] if part["type"] != "markdown"}


def test_paths_in_a_document_are_found() -> None:
    text = (
        "In `a/b.py`, [here](c/d.md#top) and `run x.py with/it`; not `1/2 of`, `[B, N]`, [there](https://x.org/e.md).\n"
    )
    assert mentioned(f"{text}\n    do tests/one\n") == ["a/b.py", "x.py", "with/it", "1/2", "tests/one", "c/d.md"]


def test_the_guide_is_short_and_says_how_to_test() -> None:
    assert len(guide().splitlines()) < 150
    assert len(mentioned(guide())) > 25
    assert "\n    python dev.py test\n" in guide()


@pytest.mark.parametrize("path", mentioned(guide()))
def test_what_the_guide_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_what_the_guide_lets_people_type_is_there() -> None:
    assert "LANGUAGES = (" in (ROOT / "devtools" / "translations.py").read_text(encoding="utf-8")
    assert "ATEDM_RECORD_NODES" in (ROOT / "tests" / "host" / "test_nodes.py").read_text(encoding="utf-8")


def test_there_are_forms_for_faults_results_and_wishes() -> None:
    assert {path.name for path in FORMS} == {*REPORTS, "feature_request.yml"}


@pytest.mark.parametrize("path", FORMS, ids=[path.stem for path in FORMS])
def test_a_form_is_one_that_github_shows(path: Path) -> None:
    """One fault, and the form is left out of the list without a word."""
    found = form(path)
    assert set(found) == {"name", "description", "labels", "body"}
    assert len(found["name"]) > 3
    assert len(found["description"]) > 3
    for part in found["body"]:
        assert set(part) <= {"type", "id", "attributes", "validations"}
        if part["type"] == "markdown":
            assert part["attributes"].keys() == {"value"}
            continue
        assert part["type"] in ASKING
        assert re.fullmatch(r"[\w-]+", part["id"])
        assert part["attributes"]["label"]
        assert set(part["attributes"]) <= {"label", "description", "placeholder", "render", "options"}
        assert part.get("validations", {"required": True}) == {"required": True}
        assert ("options" in part["attributes"]) == (part["type"] in ("dropdown", "checkboxes"))
    asked = [part for part in found["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in asked}) == len({part["attributes"]["label"] for part in asked}) == len(asked)
    assert any("validations" in part for part in asked)


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_comes_with_the_log_line_and_how_the_picture_was_made(name: str) -> None:
    asked = questions(TEMPLATES / name)
    for one in ("log-line", "model", "sampling", "versions"):
        assert asked[one]["validations"]["required"], one
    assert "packs" in asked
    assert "ComfyUI" in asked["versions"]["attributes"]["label"]


@pytest.mark.parametrize("name", REPORTS)
def test_the_log_line_shown_is_the_readmes(name: str) -> None:
    def wording(text: str) -> list[str]:
        return [re.sub(r"\d+(\.\d+)?", "#", line) for line in re.findall(r"AT-EDM: kept [^`\n]+", text)]

    (shown,) = wording(questions(TEMPLATES / name)["log-line"]["attributes"]["description"])
    assert shown in wording((ROOT / "README.md").read_text(encoding="utf-8"))


def test_a_fault_comes_with_the_workflow() -> None:
    assert "JSON" in questions(TEMPLATES / "bug_report.yml")["workflow"]["attributes"]["description"]


def test_who_opens_an_issue_chooses_a_form_or_follows_a_link_that_leads_somewhere() -> None:
    config = form(TEMPLATES / "config.yml")
    assert config["blank_issues_enabled"] is False
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (repository,) = re.findall(r'^Repository = "(.+)"$', project, re.MULTILINE)
    for link in config["contact_links"]:
        assert set(link) == {"name", "url", "about"}
        assert link["url"].startswith(repository)
        if BLOB in link["url"]:
            assert (ROOT / link["url"].split(BLOB)[1]).is_file()


def test_a_pull_request_is_asked_for_tests_figures_and_the_control() -> None:
    text = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")
    for asked in ("python dev.py test", "the command, the machine", "fewer steps at equal cost", "to the bit"):
        assert asked in text
    assert [path for path in mentioned(text) if not (ROOT / path).exists()] == []
