"""A real ComfyUI for the tests: in this process (`host`), and as a server over HTTP (`server`).

The tree comes from COMFYUI_PATH, or from what dev.py made. There is no skipping: without a ComfyUI these tests fail.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process import PACK, InProcessHost, enter_comfyui
from serving import make_own_base, running_server

from devtools.layout import ROOT, current_host
from devtools.links import link_folder
from devtools.server import Server

TINY_PACK = Path(__file__).resolve().parent / "tiny_pack"
COMFYUI = current_host().comfyui

if not (COMFYUI / "main.py").is_file():
    raise pytest.UsageError(f"No ComfyUI in {COMFYUI}. Run `python dev.py test`, or set COMFYUI_PATH.")


def make_test_base() -> Path:
    """A fresh base folder with the pack and the tiny checkpoint loader linked in; gone when the process ends."""
    base = make_own_base()
    link_folder(base / "custom_nodes" / PACK, ROOT)
    link_folder(base / "custom_nodes" / TINY_PACK.name, TINY_PACK)
    return base


# At import, not in a fixture: test modules may then import comfy at their top.
BASE = make_test_base()
enter_comfyui(COMFYUI, BASE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by what a test uses, so that `-m "not server"` is always true to its word."""
    for item in items:
        if not str(item.path).startswith(str(Path(__file__).parent)):
            continue
        uses_server = "server" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.server if uses_server else pytest.mark.host)


@pytest.fixture(scope="session")
def host() -> Iterator[InProcessHost]:
    """ComfyUI in this process with the pack loaded."""
    running = InProcessHost(BASE)
    for name in (PACK, TINY_PACK.name):
        running.load_pack(BASE / "custom_nodes" / name)
    yield running
    running.close()
    gc.collect()  # models that go only when the interpreter ends complain that ComfyUI has gone before them


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A ComfyUI server with the pack loaded; `.get`, `.post`, `.run(prompt)`, `.view(image)`, `.log()`."""
    with running_server(make_test_base()) as running:
        yield running
