from __future__ import annotations

import sys

import pytest

from benchmarks.measure import run_alone

SHAPE = (2, 10, 4096, 64)
MAP_BYTES = SHAPE[0] * SHAPE[1] * SHAPE[2] ** 2 * 4


@pytest.mark.skipif(sys.platform == "win32", reason="a process's resident size is trimmed there at any time")
def test_ranking_the_largest_level_takes_under_a_tenth_of_the_map():
    arguments = ["--shape", "64 x 64 tokens", "--device", "cpu"]
    found = run_alone("benchmarks.speed.ranking", "--peak", "map-free", *arguments)
    assert 0 < found < MAP_BYTES / 10
