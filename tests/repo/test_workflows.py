"""What runs on GitHub: the whole check on every system and on both ends of Python, and before anything is published."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml
from repo_files import ROOT

from dev import OLDEST
from devtools.layout import LOGS

WORKFLOWS = ROOT / ".github" / "workflows"
CHECK = ".ci/run"


def workflow(name: str) -> dict[str, Any]:
    """A parsed workflow; its `on` is a truth value to YAML 1.1, and given back as a word."""
    found = yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


@pytest.fixture(scope="module")
def check() -> dict[str, Any]:
    """The one job that runs the check."""
    jobs = workflow("tests.yml")["jobs"].values()
    (found,) = [job for job in jobs if any(step.get("run", "").strip() == CHECK for step in job["steps"])]
    return dict(found)


def using(job: dict[str, Any], action: str) -> dict[str, Any]:
    """The one step of a job that uses an action."""
    (found,) = [step for step in job["steps"] if step.get("uses", "").startswith(f"{action}@")]
    return dict(found)


def test_nothing_is_published_before_the_check_has_passed() -> None:
    jobs = workflow("publish.yml")["jobs"]
    (publish,) = [job for job in jobs.values() if "publish-node-action" in str(job.get("steps"))]
    needed = [publish["needs"]] if isinstance(publish["needs"], str) else publish["needs"]
    assert "./.github/workflows/tests.yml" in [jobs[name].get("uses") for name in needed]
    assert "workflow_call" in workflow("tests.yml")["on"]
    assert not re.search(r"always|failure|cancelled", publish["if"]), "it would go on without the tests"


def test_the_check_runs_on_pull_requests_and_on_main() -> None:
    found = workflow("tests.yml")["on"]
    assert "pull_request" in found
    assert found["push"] == {"branches": ["main"]}


def test_the_check_runs_whole_and_counts(check: dict[str, Any]) -> None:
    (step,) = [step for step in check["steps"] if step.get("run", "").strip() == CHECK]
    assert step["shell"] == "bash", "Windows would not start it"
    assert "if" not in step
    assert "continue-on-error" not in str(check)


def test_every_system_and_both_ends_of_python_are_tested(check: dict[str, Any]) -> None:
    matrix = check["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["system"]} == {"ubuntu", "windows", "macos"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (ends,) = re.findall(r"Python (3\.\d+) to (3\.\d+)", readme)
    assert matrix["python"] == list(ends), "without quotes 3.10 would be 3.1"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={ends[0]}"' in project
    assert ends[0] == ".".join(map(str, OLDEST))
    assert "exclude" not in matrix
    assert check["strategy"]["fail-fast"] is False
    assert using(check, "actions/setup-python")["with"]["python-version"] == "${{ matrix.python }}"
    assert check["runs-on"] == "${{ matrix.system }}"


def test_the_frontend_is_tested_on_every_system(check: dict[str, Any]) -> None:
    matrix = check["strategy"]["matrix"]
    browsers = {row["system"]: row["chromium"] for row in matrix["include"]}
    assert set(browsers) == set(matrix["system"]), "these tests are skipped where no browser is found"
    assert check["env"]["CHROMIUM_PATH"] == "${{ matrix.chromium }}"


def test_runs_end_in_time_and_make_way_for_newer_ones(check: dict[str, Any]) -> None:
    assert 30 <= check["timeout-minutes"] <= 120
    concurrency = workflow("tests.yml")["concurrency"]
    assert concurrency["cancel-in-progress"] is True
    assert "github.workflow" in concurrency["group"], "a call from another workflow must not end a run of this one"
    assert "github.event.pull_request.number || github.run_id" in concurrency["group"], "runs on main would end too"


def test_downloads_are_kept_until_what_is_installed_changes(check: dict[str, Any]) -> None:
    given = using(check, "actions/setup-python")["with"]
    assert given["cache"] == "pip"
    files = given["cache-dependency-path"].split()
    assert set(files) >= {"devtools/dev-requirements.txt", "devtools/host-constraints.txt", "devtools/recipe.py"}
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_logs_of_a_failed_run_can_be_read(check: dict[str, Any]) -> None:
    step = using(check, "actions/upload-artifact")
    assert "failure()" in step["if"]
    assert step["with"]["path"] == LOGS.relative_to(ROOT).as_posix()
    assert step["with"]["include-hidden-files"] is True, "a folder with a dot would be left out in silence"
    for name in ("system", "python"):
        assert f"matrix.{name}" in step["with"]["name"], "two uploads of one name are an error"


def test_no_workflow_may_write_to_the_repository() -> None:
    for path in WORKFLOWS.glob("*.yml"):
        assert workflow(path.name)["permissions"] == {"contents": "read"}, path.name


def test_text_has_the_same_line_ends_everywhere() -> None:
    command = ["git", "-c", "safe.directory=*", "check-attr", "eol", "text", "--", CHECK, "locales/en/main.json"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split(": ", 1)[1] for line in told] == ["eol: lf", "text: auto"] * 2
