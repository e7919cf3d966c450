"""What it costs to choose tokens and to fill them in: ranking, finding stand-ins, and regression, in closed form.

Two operations per multiply-add, one sample, as in `flops`. Counted are matrix products; sorting and gathering move
memory instead, and are measured.
"""

from __future__ import annotations

from .flops import CONTEXT_TOKENS
from .ranking import LATTICE_VOTERS
from .redundancy import anchors_of, picked_in_rounds
from .regression import fitted_rows
from .settings import PruneSettings


def choosing_flops(
    settings: PruneSettings,
    width: int,
    tokens: int,
    kept: int,
    *,
    remembered: bool = False,
    stand_ins_too: bool = True,
    context_tokens: int = CONTEXT_TOKENS,
) -> int:
    """Of one attention block of so many `tokens` and channels (`width`) in which `kept` stay; 0 where all do.

    A `remembered` ranking costs nothing again, nor do the stand-ins, unless another number of tokens stayed when it was
    made: then they are not remembered, `stand_ins_too` is false.
    """
    if kept >= tokens:
        return 0
    ranking = 0 if remembered else _ranking_products(settings, tokens, kept, context_tokens)
    stand_ins = 0
    if settings.recovery != "zero" and settings.stand_in != "grid" and not (remembered and stand_ins_too):
        # by attention the log-sum-exp of every row comes first, unless the layer's kernel gave it
        stand_ins = (tokens - kept) * kept
    return 2 * width * (ranking + stand_ins) + filling_in_flops(settings, width, tokens, kept)


def filling_in_flops(settings: PruneSettings, width: int, tokens: int, kept: int) -> int:
    """The part of it that comes after the layers, and also where another pass has chosen the tokens already."""
    if settings.recovery != "regression" or kept >= tokens:
        return 0
    rows = fitted_rows(kept)
    # the products of all rows, their Cholesky factor, solving with it twice, and applying what was fitted
    return 2 * (rows**2 * width + rows**3 // 6 + rows**2 * width + 2 * tokens * rows * width)


def _ranking_products(settings: PruneSettings, tokens: int, kept: int, context_tokens: int) -> int:
    """Pairs of tokens that are compared."""
    if settings.ranking == "redundancy":
        anchors = anchors_of(tokens, kept)
        return tokens * (anchors + sum(picked_in_rounds(tokens, anchors, kept)))
    if settings.ranking == "none":
        return 0
    if settings.ranking == "cross-attention":
        return (1 + 4 * settings.iterations) * tokens * context_tokens
    voters = min(tokens, LATTICE_VOTERS) if settings.voters == "lattice" else tokens
    # the log-sum-exp of the voters' rows, then one attention call, two products, a round
    return (2 + 2 * settings.iterations) * voters * tokens
