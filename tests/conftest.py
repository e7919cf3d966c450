"""Settings for every test process. The fixtures with a real ComfyUI are in tests/host/conftest.py."""

from __future__ import annotations

import os
from pathlib import Path

# Spinning OpenMP threads make small tensors up to ten times slower as soon as anything else runs on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository."""
    return ROOT


class _RootIsNoTestPackage:
    """The root has an __init__.py for ComfyUI, which pytest would import as the package around the tests."""

    @staticmethod
    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    """As a plugin and not as a conftest hook: those are not asked about folders above them."""
    config.pluginmanager.register(_RootIsNoTestPackage(), "root-is-no-test-package")
