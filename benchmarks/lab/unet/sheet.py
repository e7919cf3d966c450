"""A contact sheet: the same captions and seeds in several ways, and how often each token was kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from demo import pictures

from ..captions import CaptionSet, batch, batches, on_subject
from ..cases import Sampling
from .cases import Case, Pruning
from .catalogue import BASE, PAPER, by_attention
from .session import Session

COLUMNS: dict[str, Case] = {
    "unpruned, 20 steps": Case(),
    "13 steps": Case(Sampling(13)),
    "paper's recipe, 0.63": Case(BASE, PAPER),
    "defaults": Case(BASE, Pruning()),
    "G-WPR": Case(BASE, by_attention()),
}


@dataclass
class _Kept:
    """How often each token of each block was kept, for the positive condition of every picture."""

    pictures: int
    counts: dict[str, Any] = field(default_factory=dict)

    def __call__(self, event: Any) -> None:
        # the first condition in the batch is as good as any for a picture of what is kept
        kept = event.subset.keep_index[: self.pictures].numpy()
        hits, calls, _ = self.counts.get(event.block.name, (np.zeros((self.pictures, event.subset.total)), 0, None))
        hits[np.arange(self.pictures)[:, None], kept] += 1
        self.counts[event.block.name] = (hits, calls + 1, event.grid)

    def blocks(self, picture: int) -> list[dict[str, Any]]:
        """What `demo.pictures.mean_map` reads."""
        return [
            {"grid": grid, "kept_share": (hits[picture] / calls).tolist()} for hits, calls, grid in self.counts.values()
        ]


def make(session: Session, captions: CaptionSet = "confirm", count: int = 8) -> Image.Image:
    """Rows of captions, columns of ways; the last columns show the tokens that those with pruning kept."""
    rows, labels = [], []
    columns = [*COLUMNS, "kept by the paper's", "by the defaults", "by G-WPR"]
    for number in range(batches(count)):
        shown = batch(on_subject(captions, session.subject), number)
        drawn, maps = [], []
        for case in COLUMNS.values():
            kept = _Kept(len(shown))
            drawn.append(session.draw(case, shown, watch=kept).pictures)
            if case.pruning is not None:
                maps.append(kept)
        for i, one in enumerate(shown):
            own = [Image.fromarray(pictures_of[i]) for pictures_of in drawn]
            rows.append([*own, *(pictures.mean_map(own[0], kept.blocks(i)) or own[0] for kept in maps)])
            labels.append(one.text)
    return pictures.sheet(rows, columns, labels, side=128)
