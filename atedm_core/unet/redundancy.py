"""Ranking tokens by how much is lost without them: those that nothing kept resembles stay.

It goes in three rounds. A lattice of anchors, one token of every 4 x 4 cell or, where that is more than a quarter of
what stays, of larger ones, is kept before all others. A third of what may stay beside them are the tokens least like
any anchor; these are anchors too from then on, and so is the third that the next round picks. The rest rank by how
little they resemble the most similar of all anchors. So what stays follows the picture's content, and a few tokens are
enough: a lattice of 2 x 2 cells took all there was to keep beyond a ratio of 0.7 (`docs/fidelity.md`).

Token merging goes by the same similarity (ToMe, Bolya and Hoffman 2023, section 4), between keys; here it is between
hidden states at the pruning point, which is where a dropped token is given back the change of its most similar kept
one. Picking those farthest from all picked so far is greedy k-center clustering (Gonzalez 1985), here many at a time.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ..tokens import EvenOrder, best_first, gather_tokens
from .similarity import Directions

CELL = 4
SETTLED = 2.0
"""Score of what a round picked: above all others' but the anchors', which are higher by their place in the order."""
MOST_ANCHORS = 0.25
"""Share of what stays that the lattice takes at most: the rest follows the picture."""
ROUNDS = 3
"""With more, pictures come no nearer (`docs/fidelity.md`)."""
MOST_PICKED = 0.25
"""Share of all tokens that all rounds but the last pick at most: more would cost what a low ratio saves."""


def redundancy_scores(
    hidden: Tensor | Directions, grid: tuple[int, int], keep: int, order: EvenOrder | None = None
) -> Tensor:
    """Scores `[B, N]` by which `keep` of N tokens are to stay: anchors over 2, picked ones 2, others minus a cosine.

    That is the one with the most similar of these, -1 to 1 to rounding. They are float32 (float64 for float64 states
    `[B, N, C]`). `grid` is (height, width) in tokens; its `order`, in which anchors come, is made anew where it is not
    given. They are for choosing by: no gradient goes through them.
    """
    states = Directions.of(hidden)
    order = order or EvenOrder.of(grid, states.rows.device)
    tokens = states.rows.shape[1]
    cell = lattice_cell(tokens, keep)

    def lattice(rows: Tensor) -> Tensor:
        return rows.unflatten(1, grid)[:, ::cell, ::cell]

    highest = states.highest_with(states.pick(lambda rows: lattice(rows).flatten(1, 2)))
    # What is settled is most like all others from here on, and so never picked again.
    anchors = lattice(highest).fill_(math.inf)[0].numel()
    for count in picked_in_rounds(tokens, anchors, keep):
        picked = best_first(highest, order, lowest=True)[:, :count]
        nearer = states.highest_with(states.pick(partial(gather_tokens, index=picked)))
        highest = highest.maximum(nearer).scatter_(1, picked, math.inf)
    scores = torch.where(highest == math.inf, SETTLED, -highest)
    lattice(scores).add_(lattice(order.scores.unsqueeze(0)))
    return scores


def lattice_cell(tokens: int, keep: int) -> int:
    """The edge of the lattice's cells, in tokens: 4, or as often doubled as `keep` of so many tokens ask for."""
    edge = CELL
    while tokens > MOST_ANCHORS * keep * edge**2:
        edge *= 2
    return edge


def anchors_of(tokens: int, keep: int) -> int:
    """How many of a grid's tokens are on the lattice, but for the edges of grids that are no multiple of its cells."""
    return -(-tokens // lattice_cell(tokens, keep) ** 2)


def picked_in_rounds(tokens: int, anchors: int, keep: int) -> tuple[int, ...]:
    """How many tokens each round but the last picks beside the anchors; none where it would pick none."""
    each = min((keep - anchors) // ROUNDS, int(MOST_PICKED * tokens) // (ROUNDS - 1))
    return (each,) * (ROUNDS - 1) if each > 0 else ()
