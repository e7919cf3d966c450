"""Choices that CAT Pruning has to beat, put in the place of the pack's own for the length of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .. import _host

RANDOM_SEED = 77
CONTROLS = ("random", "largest change")


@contextmanager
def in_place(control: str | None) -> Iterator[None]:
    """The pack chooses tokens by `control` inside, one of `CONTROLS`.

    Raises:
        ValueError: another name.
    """
    if control is None:
        yield
        return
    module = _host.pack("patches.dit.run")
    before = module.TokenSelector
    module.TokenSelector = selector(control, before)
    try:
        yield
    finally:
        module.TokenSelector = before


def selector(control: str, base: type) -> type:
    """A token selector that chooses by `control` and is like `base` in all else."""
    if control not in CONTROLS:
        raise ValueError(f"control is {control!r}: choose one of {', '.join(CONTROLS)}")

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
