from __future__ import annotations

import pytest
import torch

from benchmarks import _host


@pytest.fixture(scope="session")
def comfyui() -> None:
    """ComfyUI in this process, as the benchmarks have it."""
    _host.enter(torch.device("cpu"))
    torch.set_num_threads(1)
