"""Every text of every node, of the plot and of the help is there in every language, and made from today's English.

Where this fails: `python -m devtools.translations LANGUAGE` shows what to translate, `--record` notes that it is done.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from devtools.server import Server
from devtools.translations import LANGUAGES, faults


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_nothing_is_missing_outdated_broken_or_left_over(server: Server, repository: Path, language: str) -> None:
    found = faults(repository, server.get("/object_info"))
    assert [str(fault) for fault in found if fault.language == language] == []


def test_the_server_hands_the_translations_out(server: Server) -> None:
    served = server.get("/i18n")
    for language in LANGUAGES:
        assert set(served[language]["nodeDefs"]) >= {"ATEDMApply", "ATEDMSchedule", "ATEDMBudget"}
        assert set(served[language]["AT-EDM"]["plot"]) == set(served["en"]["AT-EDM"]["plot"])
    assert "nodeDefs" not in served["en"], "English would then no longer come from the nodes themselves"
