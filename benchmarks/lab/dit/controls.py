"""Choices that CAT Pruning has to beat, given to `apply_cat` in place of the pack's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RANDOM_SEED = 77
CONTROLS = ("random", "largest change", "unmoved")


def selector(control: str | None, base: type) -> type:
    """A token selector that chooses by `control`, one of `CONTROLS`, and is like `base` in all else; `base` for `None`.

    The one called `unmoved` chooses as `base` does, and tells nobody how long tokens have waited, so that what is kept
    of the others stays as it is.

    Raises:
        ValueError: another name.
    """
    if control is None:
        return base
    if control not in CONTROLS:
        raise ValueError(f"control is {control!r}: choose one of {', '.join(CONTROLS)}")

    if control == "unmoved":

        class Unmoved(base):
            waited = None

        return Unmoved

    class Control(base):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self._generator = torch.Generator().manual_seed(RANDOM_SEED)

        def choose(self, forced: Tensor | None = None) -> Tensor:
            images, tokens, _ = self._latest.shape
            if control == "random":
                # One draw for all images: none depends on how many are drawn beside it.
                worth = torch.rand(tokens, generator=self._generator).expand(images, -1)
            else:
                worth = (self._latest - self._reference).norm(dim=-1)
            kept = worth.argsort(dim=1, descending=True, stable=True)[:, : self.settings.kept(tokens)]
            return kept.sort(dim=1).values

    return Control
