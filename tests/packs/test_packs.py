"""Beside the real code of other packs: `python dev.py packs` fetches them and runs this.

ATEDM_PACKS is the folder that has them; without it everything here is skipped. What was found goes to the file that
ATEDM_PACKS_FOUND names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from beside import ALONE, FOUND, SAMPLES, widget_values
from catalogue import PACKS, Pack

HERE = Path(__file__).resolve().parent
SECONDS = 3600


def look(pack: Pack, folder: Path) -> list[dict[str, Any]]:
    """What was found of a pack, by trial and kind of model."""
    command = [sys.executable, "-W", "ignore", str(HERE / "beside.py"), str(folder), pack.name]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS, check=False
    )
    lines = [line.removeprefix(FOUND) for line in done.stdout.splitlines() if line.startswith(FOUND)]
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in lines]


def test_widgets_that_are_not_given_are_as_a_fresh_node_has_them() -> None:
    required: dict[str, Any] = {
        "model": ("MODEL",),
        "mask": ("MASK", {"tooltip": "a socket"}),
        "smooth": ("BOOLEAN", {"default": False}),
        "method": (["bicubic", "area"],),
        "kind": (("x", "y"), {"default": "y"}),
        "order": ("COMBO", {"options": ["up", "down"]}),
    }
    values = widget_values({"required": required, "optional": {"more": ("INT", {"default": 3})}})
    assert values == {"smooth": False, "method": "bicubic", "kind": "y", "order": "up"}


@pytest.mark.slow
@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_both_do_what_they_do_alone(pack: Pack) -> None:
    folder = Path(os.environ.get("ATEDM_PACKS", ""))
    if not os.environ.get("ATEDM_PACKS"):
        pytest.skip("needs other packs' code: python dev.py packs")
    if not (folder / pack.folder).is_dir():
        pytest.skip(f"{pack.folder} is not in {folder}")
    found = look(pack, folder)
    if os.environ.get("ATEDM_PACKS_FOUND"):
        with Path(os.environ["ATEDM_PACKS_FOUND"]).open("a", encoding="utf-8") as sink:
            sink.writelines(json.dumps({"pack": pack.repository, "commit": pack.commit, **one}) + "\n" for one in found)
    assert found
    failed = [one for one in found if any(str(value).startswith("FAILS") for value in one.values())]
    assert failed == []
    if all(one.get(ALONE) != SAMPLES for one in found):
        pytest.skip(f"{pack.name} alone: {found[0].get(ALONE)}")
