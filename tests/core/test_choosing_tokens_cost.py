"""What choosing tokens of a transformer is said to cost, beside PyTorch's own count and beside a step."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from atedm_core.dit.choosing_flops import choosing_flops, run_flops
from atedm_core.dit.flops import TransformerStructure, transformer_flops
from atedm_core.dit.schedule import DEFAULT_SCHEDULE, CATSchedule
from atedm_core.dit.selection import DEFAULT_SELECTION, CATSelection, TokenSelector
from atedm_core.dit.structures import flux_structure, pixart_structure, sd3_structure

GRID, CHANNELS = (16, 12), 64
TOKENS = GRID[0] * GRID[1]
FAMILIES = {"SD3": sd3_structure(), "PixArt": pixart_structure(), "Flux": flux_structure()}


@pytest.mark.parametrize("clusters", [7, 20])
@pytest.mark.parametrize("position", ["added", "concatenated"])
def test_grouping_is_what_pytorch_counts(clusters: int, position: str) -> None:
    settings = CATSelection(clusters=clusters, position=position, pooling="never")  # type: ignore[arg-type]
    selector = TokenSelector(settings, GRID)
    for seed in (0, 1):
        noise = torch.randn(1, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(seed))
        selector.observe(noise, full=True)
    with FlopCounterMode(display=False) as counter:
        selector.choose()
    told = choosing_flops(settings, sd3_structure(), TOKENS, after_full=True)
    told -= choosing_flops(settings, sd3_structure(), TOKENS)
    assert counter.get_total_flops() == pytest.approx(told, rel=0.02)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("selection", [CATSelection(), DEFAULT_SELECTION], ids=["published", "defaults"])
def test_it_is_small_beside_a_pass(name: str, selection: CATSelection) -> None:
    structure = FAMILIES[name]
    saved = transformer_flops(structure, 4096, 300) - transformer_flops(structure, 4096, 300, selection.kept(4096))
    cost = choosing_flops(selection, structure, 4096, after_full=True)
    assert 0 < cost < 0.001 * saved


def test_what_is_not_done_costs_nothing() -> None:
    structure = sd3_structure()
    assert choosing_flops(CATSelection(keep_ratio=1.0), structure, TOKENS) == 0
    assert choosing_flops(CATSelection(hot_share=0.0), structure, TOKENS, after_full=True) == 0


def test_a_run_groups_tokens_after_every_full_step_that_a_pruned_one_follows() -> None:
    structure, selection = sd3_structure(), CATSelection()

    def choosing(schedule: CATSchedule) -> int:
        """What a run of 12 steps spends apart from its passes."""
        pruned = schedule.pruned_steps(12)
        passes = (12 - pruned) * transformer_flops(structure, 64, 10)
        passes += pruned * transformer_flops(structure, 64, 10, selection.kept(64))
        return run_flops(structure, 64, 10, 12, selection, schedule) - passes

    def expected(schedule: CATSchedule, anew: int) -> int:
        other = schedule.pruned_steps(12) - anew
        of = choosing_flops(selection, structure, 64, after_full=True), choosing_flops(selection, structure, 64)
        return anew * of[0] + other * of[1]

    once, often = CATSchedule(), CATSchedule(refresh_interval=4)
    assert choosing(once) == expected(once, 1)
    assert choosing(often) == expected(often, 2)
    assert choosing(DEFAULT_SCHEDULE) > 0


def test_a_structure_of_any_width_has_a_cost() -> None:
    tiny = TransformerStructure(8, image_macs=100, text_macs=10, joint_attentions=1, output_macs=64)
    assert choosing_flops(DEFAULT_SELECTION, tiny, 10) == 2 * (10 * 8 + 2 * 8 * (2 * 3 + 10))
