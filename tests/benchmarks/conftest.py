from __future__ import annotations

import pytest
import torch

from benchmarks import host


@pytest.fixture(scope="session")
def comfyui() -> None:
    """ComfyUI in this process, as the benchmarks have it."""
    host.enter(torch.device("cpu"))
    torch.set_num_threads(1)
