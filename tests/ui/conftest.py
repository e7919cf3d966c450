"""ComfyUI's own frontend in headless Chromium, in both renderers, on a server with the pack and the demo model.

Screenshots lie in .host/logs/ui (or where ATEDM_TEST_LOGS says). Without a Chromium everything here is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import ADVICE, FLAGS, find_chromium
from frontend import PICTURES, RENDERERS, Frontend
from graphs import provide_template_files
from playwright.sync_api import Browser, sync_playwright
from serving import make_own_base, running_server

from devtools.commands import link_packs
from devtools.server import Server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        program = find_chromium(playwright.chromium.executable_path)
        if program is None:
            pytest.skip(ADVICE)
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def server(browser: Browser) -> Iterator[Server]:
    """A ComfyUI server with the pack and the demo model; not started where there is no browser to look at it."""
    base = make_own_base()
    link_packs(base, demo=True)
    provide_template_files(base)
    with running_server(base) as running:
        yield running


@pytest.fixture(scope="session", params=list(RENDERERS))
def opened(request: pytest.FixtureRequest, server: Server, browser: Browser) -> Iterator[Frontend]:
    """One page per renderer for all tests that leave nothing in it: opening it takes seconds."""
    frontend = Frontend(server, browser, request.param)
    yield frontend
    frontend.close()


@pytest.fixture
def ui(opened: Frontend, request: pytest.FixtureRequest) -> Iterator[Frontend]:
    """The page with an empty graph. Neither browser nor server may complain while a test runs."""
    opened.clear()
    yield opened
    opened.picture(PICTURES / f"{request.node.name.replace('/', '-')}.png")
    complaints, opened.complaints = opened.complaints, []
    assert complaints == []
