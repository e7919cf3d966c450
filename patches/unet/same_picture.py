"""What an evaluation kept, for those of its passes that look at the same picture again.

Guidance by perturbation (PAG, SEG) runs a condition twice on one latent, the second time with something broken in its
attention, and adds what the two answers differ by. Tokens that differ too would be added with it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from ...atedm_core.tokens import TokenSubset
from ...atedm_core.unet.settings import PrunePoint
from .memory import Form, Key


@dataclass(frozen=True)
class Kept:
    """The tokens of some samples in one block, and where the others were dropped."""

    subset: TokenSubset
    point: PrunePoint


class SamePicture:
    """The choices of the first pass over a latent, until the next latent comes.

    A pass is one call for a list of conditions. Where a condition comes by more than once within it, as tiles do, it is
    another picture each time, and nothing is known of it.
    """

    def __init__(self) -> None:
        self._latent: Tensor | None = None
        self._again = False
        self._kept: dict[Key, tuple[Form, Kept]] = {}
        self._several: set[Key] = set()

    def enter(self, latent: Tensor) -> None:
        """A pass over a latent begins. Only the very same tensor is the same picture."""
        self._again = latent is self._latent
        if not self._again:
            self.reset()
            self._latent = latent

    def note(self, uuids: list[Hashable], block: str, form: Form, kept: Kept) -> None:
        """Conditions that ran together have made their choice."""
        for uuid, own in zip(uuids, kept.subset.split(len(uuids)), strict=True):
            if (uuid, block) in self._kept:
                self._several.add((uuid, block))
            self._kept[uuid, block] = form, Kept(own, kept.point)

    def kept(self, uuids: list[Hashable], block: str, form: Form, tokens: int) -> Kept | None:
        """What all of these conditions kept in an earlier pass over this latent; `None` if that is not known."""
        keys = [(uuid, block) for uuid in uuids]
        if not self._again or not self._kept.keys() >= set(keys) or not self._several.isdisjoint(keys):
            return None
        forms, kept = zip(*(self._kept[key] for key in keys), strict=True)
        points = {one.point for one in kept}
        if any(one != form for one in forms) or any(one.subset.kept != tokens for one in kept) or len(points) > 1:
            return None
        return Kept(TokenSubset.join([one.subset for one in kept]), kept[0].point)

    def reset(self) -> None:
        """Forget everything."""
        self._latent, self._again = None, False
        self._kept.clear()
        self._several.clear()
