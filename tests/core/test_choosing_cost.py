"""What choosing tokens and filling them in is said to cost, beside PyTorch's own count of what it runs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from atedm_core.unet.choosing_flops import choosing_flops
from atedm_core.unet.ranking import choose_stand_ins, rank_states, select_tokens
from atedm_core.unet.recovery import recover
from atedm_core.unet.regression import MOST_ROWS, fitted_rows
from atedm_core.unet.settings import DEFAULT_SETTINGS, PruneSettings

GRID, WIDTH = (16, 12), 32
TOKENS = GRID[0] * GRID[1]


@pytest.mark.parametrize(
    ("ranking", "stand_in"), [("redundancy", "cosine"), ("none", "cosine"), ("redundancy", "grid")]
)
@pytest.mark.parametrize("kept", [60, 100, 180])
@pytest.mark.parametrize("recovery", ["update", "regression"])
def test_it_is_what_pytorch_counts(ranking: str, stand_in: str, kept: int, recovery: str) -> None:
    settings = PruneSettings(ranking=ranking, stand_in=stand_in, recovery=recovery)  # type: ignore[arg-type]
    hidden = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        scores = rank_states(settings, hidden, kept, GRID)
        subset = choose_stand_ins(settings, select_tokens(settings, scores, kept, GRID), GRID, hidden, None)
        recover(settings.recovery, subset, hidden, subset.gather(hidden) + 1.0)
    # PyTorch counts products alone, neither the factor of R x R nor solving with it.
    most = fitted_rows(kept)
    solving = 2 * (most**2 * WIDTH + most**3 // 6) if recovery == "regression" else 0
    expected = choosing_flops(settings, WIDTH, TOKENS, kept) - solving
    if kept > MOST_ROWS and recovery == "regression":  # told by its most rows, done by every second
        rows = -(-kept // 2)
        expected -= 2 * WIDTH * (most**2 - rows**2 + 2 * TOKENS * (most - rows))
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_what_a_ranking_that_is_remembered_leaves_to_do() -> None:
    """Its stand-ins serve again, unless another number of tokens is to stay."""
    settings = PruneSettings("self-attention", rank_interval=2, recovery="update")

    def cost(**how: bool) -> int:
        return choosing_flops(settings, WIDTH, TOKENS, 60, **how)

    assert cost(remembered=True) == 0
    assert cost(remembered=True, stand_ins_too=False) == 2 * WIDTH * (TOKENS - 60) * 60 < cost()


def test_regression_costs_no_more_than_its_most_rows_allow() -> None:
    settings = PruneSettings(ranking="none", stand_in="grid")
    at_most = 2 * (2 * 128**2 * WIDTH + 128**3 // 6 + 2 * 16384 * 128 * WIDTH)
    assert choosing_flops(settings, WIDTH, 16384, 8000) <= at_most


def test_what_is_not_done_costs_nothing() -> None:
    assert choosing_flops(DEFAULT_SETTINGS, WIDTH, TOKENS, TOKENS) == 0
    by_attention = PruneSettings(ranking="self-attention", stand_in="grid", recovery="update")
    assert choosing_flops(by_attention, WIDTH, TOKENS, 60, remembered=True) == 0
    assert choosing_flops(by_attention, WIDTH, TOKENS, 60) > 0


def test_fewer_voters_and_fewer_rounds_cost_less() -> None:
    def cost(**how: object) -> int:
        settings = PruneSettings(ranking="self-attention", stand_in="grid", **how)  # type: ignore[arg-type]
        return choosing_flops(settings, WIDTH, 4096, 2000)

    assert cost(voters="lattice") < cost(voters="all") < cost(voters="all", iterations=3)
