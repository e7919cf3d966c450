"""The cost formula against the paper's figures; against real graphs it is tested with the host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atedm_core.dit.choosing_flops import run_flops
from atedm_core.dit.flops import TransformerStructure, transformer_flops
from atedm_core.dit.schedule import CATSchedule
from atedm_core.dit.selection import CATSelection
from atedm_core.dit.structures import (
    anima_structure,
    auraflow_structure,
    flux2_structure,
    flux_structure,
    krea2_structure,
    lumina_structure,
    pixart_structure,
    qwen_image_structure,
    sd3_structure,
)

TOKENS = 4096
SD3_TEXT, PIXART_TEXT = 333, 300
STRUCTURES = [
    sd3_structure(),
    sd3_structure(double_attention_blocks=13),
    sd3_structure(2432, 38),
    pixart_structure(),
    flux_structure(),
    flux_structure(3072, 10, 20, 3584, guidance=False, vector_width=None),
    flux2_structure(),
    auraflow_structure(),
    qwen_image_structure(),
    lumina_structure(),
    lumina_structure(multiple=32),
    anima_structure(),
    krea2_structure(),
]


def published_macs(
    structure: TransformerStructure, tokens: int, text_tokens: int, steps: int, full_steps: int, keep_ratio: float
) -> float:
    """Multiply-adds of a run as the paper counts them: linear layers, two conditions, no attention products.

    Text that is only looked at (PixArt's cross-attention) counts in full steps and not in pruned ones.

    Args:
        structure: of the model.
        tokens: image tokens.
        text_tokens: text tokens of the prompt.
        steps: of the run, one pass each.
        full_steps: how many of them compute all tokens.
        keep_ratio: share of image tokens that the others compute.
    """
    text = text_tokens * structure.text_macs
    full = tokens * structure.image_macs + text
    pruned = keep_ratio * tokens * structure.image_macs + (0 if structure.cross_attentions else text)
    return 2 * (full_steps * full + (steps - full_steps) * pruned)


@pytest.mark.parametrize(
    ("structure", "text", "steps", "full", "pruned"),
    [
        (sd3_structure(), SD3_TEXT, 28, 168.28, 90.28),
        (sd3_structure(), SD3_TEXT, 50, 300.50, 136.70),
        (pixart_structure(), PIXART_TEXT, 28, 120.68, 60.08),
        (pixart_structure(), PIXART_TEXT, 50, 215.40, 88.24),
    ],
    ids=["SD3, 28 steps", "SD3, 50 steps", "PixArt-Sigma, 28 steps", "PixArt-Sigma, 50 steps"],
)
def test_the_papers_figures(structure: TransformerStructure, text: int, steps: int, full: float, pruned: float) -> None:
    """Tables 2 and 3: T multiply-adds of a run at 1024 px, eight full steps, 30 % kept."""
    assert published_macs(structure, TOKENS, text, steps, steps, 1.0) / 1e12 == pytest.approx(full, rel=2e-3)
    assert published_macs(structure, TOKENS, text, steps, 8, 0.3) / 1e12 == pytest.approx(pruned, rel=2e-3)


def test_attention_counted_the_ceilings_stay() -> None:
    """A full step is half as much again, and the ratio stays: 1.86 and 1.98 times at 28 steps."""
    for structure, text, ceiling in ((sd3_structure(), SD3_TEXT, 1.86), (pixart_structure(), PIXART_TEXT, 1.98)):
        full = run_flops(structure, TOKENS, text, 28)
        pruned = run_flops(structure, TOKENS, text, 28, CATSelection(), CATSchedule())
        assert full / pruned == pytest.approx(ceiling, abs=0.02)
        assert transformer_flops(structure, TOKENS, text) > published_macs(structure, TOKENS, text, 1, 1, 1.0)


@given(st.sampled_from(STRUCTURES), st.integers(1, 4096), st.integers(1, 4096), st.integers(0, 400))
def test_fewer_tokens_cost_less(structure: TransformerStructure, some: int, more: int, text: int) -> None:
    fewer, tokens = sorted((some, more))
    full = transformer_flops(structure, tokens, text)
    assert transformer_flops(structure, tokens, text, tokens) == full
    assert (transformer_flops(structure, tokens, text, fewer) < full) == (fewer < tokens)
    assert transformer_flops(structure, tokens, text + structure.multiple) > full


def test_a_run_without_pruned_steps_costs_what_it_costs() -> None:
    structure = sd3_structure()
    everything = CATSchedule(warmup=1.0)
    assert run_flops(structure, 64, 10, 9, CATSelection(), everything) == run_flops(structure, 64, 10, 9)
