"""What one run remembers by condition and attention block: rankings.

They age by the noise levels at which their condition came by, so a step that a step cache skipped makes none older than
another. A condition that is new, or whose picture has changed its size, has none and gets its own, so that a picture
does not depend on which conditions the host ran together.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...atedm_core.tokens import TokenSubset

Key = tuple[Hashable, str]  # condition uuid and block name
Form = tuple[int, torch.device, tuple[int, int]]  # samples, device, and (height, width) of the grid
Moment = tuple[int, float]  # the number of an evaluation that the sampler asked for, and its noise level


@dataclass
class Ranking:
    """A ranking of b samples in one block: scores `[b, N]`, and what was chosen by them, stand-ins included.

    `age` counts the noise levels since, up to `sigma`, that of the last model call.
    """

    scores: Tensor
    subset: TokenSubset
    grid: tuple[int, int]
    sigma: float
    age: int = 0


class RankMemory:
    """Rankings of one run. Each serves `interval` noise levels, its own included.

    A sampler may evaluate the model twice at one noise level, and it is the same picture. A condition that comes by
    more than once in one evaluation is another picture each time: tiles, context windows, a reference, guidance by
    perturbation. Nobody can tell which is which, so from then on nothing is remembered of it in that block.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._rankings: dict[Key, Ranking] = {}
        self._last_visit: dict[Key, Moment] = {}
        self._several_pictures: set[Key] = set()

    def groups(
        self, uuids: list[Hashable], block: str, form: Form, moment: Moment
    ) -> list[tuple[list[int], Ranking | None]]:
        """Positions of the conditions that can run together, with the rankings that are remembered of them as one.

        They run together unless some have a ranking to use and others have none, or their rankings kept different
        numbers of tokens: what a condition gets must not depend on which others the host happened to put beside it.
        """
        for uuid in uuids:
            self._visit((uuid, block), moment)
        found = [self._recall((uuid, block), form, moment[1]) for uuid in uuids]
        kept = [0 if ranking is None else ranking.subset.kept for ranking in found]
        groups = [[position for position, own in enumerate(kept) if own == count] for count in sorted(set(kept))]
        return [(members, _join([found[member] for member in members])) for members in groups]

    def store(self, uuids: list[Hashable], block: str, ranking: Ranking) -> None:
        """Keep the ranking of a batch of conditions, one for each; those before it go."""
        count, scores, subset = len(uuids), ranking.scores, ranking.subset
        for uuid, own, chosen in zip(uuids, scores.chunk(count), subset.split(count), strict=True):
            if (uuid, block) not in self._several_pictures:
                self._rankings[uuid, block] = replace(ranking, scores=own, subset=chosen)

    def reset(self) -> None:
        """Forget everything."""
        self._rankings.clear()
        self._last_visit.clear()
        self._several_pictures.clear()

    def _visit(self, key: Key, moment: Moment) -> None:
        if self._last_visit.get(key) == moment:
            self._several_pictures.add(key)
            self._rankings.pop(key, None)
        self._last_visit[key] = moment

    def _recall(self, key: Key, form: Form, sigma: float) -> Ranking | None:
        found = self._rankings.get(key)
        if found is None or (found.scores.shape[0], found.scores.device, found.grid) != form:
            return None
        if sigma != found.sigma:
            found.sigma, found.age = sigma, found.age + 1
        return found if found.age < self._interval else None


def _join(rankings: list[Ranking | None]) -> Ranking | None:
    parts = [ranking for ranking in rankings if ranking is not None]
    if not parts:
        return None
    scores, subset = torch.cat([part.scores for part in parts]), TokenSubset.join([part.subset for part in parts])
    return replace(parts[0], scores=scores, subset=subset)
