"""Seconds of sampling on the demo model, in turns with the unpruned one.

They say what this small model takes, and nothing about SDXL: its attention is cheap, so that ranking and gathering cost
more than they save. Speed at full size is what `dev.py bench speed` measures.
"""

from __future__ import annotations

from typing import Any

import torch

from ...measure import interleave
from ..captions import batch
from ..cases import Peer, Sampling
from .cases import Case, Pruning
from .catalogue import PAPER
from .session import Session

CASES: dict[str, Case] = {
    "13 of 20 steps": Case(Sampling(13)),
    "paper's recipe": Case(pruning=PAPER),
    "defaults": Case(pruning=Pruning()),
    "ToMe 0.5, limit lifted": Case(peer=Peer("tome", (("ratio", 0.5),))),
    "EasyCache 0.2": Case(peer=Peer("easy_cache", (("threshold", 0.2),))),
    "defaults and EasyCache 0.2": Case(pruning=Pruning(), peer=Peer("easy_cache", (("threshold", 0.2),))),
}


def measure(session: Session, rounds: int = 3) -> list[dict[str, Any]]:
    """One line per case: seconds of a picture, and how many times faster than the unpruned one beside it."""
    shown = batch("choose", 0)[:1]
    found = []
    for name, case in CASES.items():
        pair = interleave(
            lambda: session.draw(Case(), shown),
            lambda case=case: session.draw(case, shown, timed=True),  # type: ignore[misc]
            rounds,
            torch.device("cpu"),
        )
        found.append({"name": name, "seconds": pair.b, "unpruned_seconds": pair.a, "speed_up": pair.ratio})
    return found
