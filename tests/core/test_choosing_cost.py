"""What choosing tokens is said to cost, beside PyTorch's own count of what it runs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from atedm_core.unet.choosing_flops import choosing_flops
from atedm_core.unet.ranking import choose_stand_ins, rank_states, select_tokens
from atedm_core.unet.settings import DEFAULT_SETTINGS, PruneSettings

GRID, WIDTH = (16, 12), 32
TOKENS = GRID[0] * GRID[1]


@pytest.mark.parametrize(
    ("ranking", "stand_in"), [("redundancy", "cosine"), ("none", "cosine"), ("redundancy", "grid")]
)
@pytest.mark.parametrize("kept", [60, 100, 180])
def test_it_is_what_pytorch_counts(ranking: str, stand_in: str, kept: int) -> None:
    settings = PruneSettings(ranking=ranking, stand_in=stand_in)  # type: ignore[arg-type]
    hidden = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        scores = rank_states(settings, hidden, kept, GRID)
        choose_stand_ins(settings, select_tokens(settings, scores, kept, GRID), GRID, hidden, None)
    assert counter.get_total_flops() == pytest.approx(choosing_flops(settings, WIDTH, TOKENS, kept), rel=0.02)


def test_what_is_not_done_costs_nothing() -> None:
    assert choosing_flops(DEFAULT_SETTINGS, WIDTH, TOKENS, TOKENS) == 0
    by_attention = PruneSettings(ranking="self-attention", stand_in="grid")
    assert choosing_flops(by_attention, WIDTH, TOKENS, 60, remembered=True) == 0
    assert choosing_flops(by_attention, WIDTH, TOKENS, 60) > 0


def test_fewer_voters_and_fewer_rounds_cost_less() -> None:
    def cost(**how: object) -> int:
        settings = PruneSettings(ranking="self-attention", stand_in="grid", **how)  # type: ignore[arg-type]
        return choosing_flops(settings, WIDTH, 4096, 2000)

    assert cost(voters="lattice") < cost(voters="all") < cost(voters="all", iterations=3)
