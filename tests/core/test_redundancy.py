from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import random_tokens

from atedm_core import TokenSubset
from atedm_core.unet import redundancy
from atedm_core.unet.recovery import stand_in_by_cosine
from atedm_core.unet.redundancy import redundancy_scores


def plain_scores(hidden: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The definition for tokens that are no anchors, written plainly; anchors are left at one."""
    anchors = [y * grid[1] + x for y in range(0, grid[0], 2) for x in range(0, grid[1], 2)]
    out = torch.ones(hidden.shape[:2])
    for sample in range(len(hidden)):
        for token in range(hidden.shape[1]):
            if token not in anchors:
                alike = torch.cosine_similarity(hidden[sample, anchors], hidden[sample, token : token + 1], dim=-1)
                out[sample, token] = (1.0 - alike.max()).clamp_min(0.0) / 4.0
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_scores_are_how_unlike_a_token_is_to_its_most_similar_anchor(height, width, seed):
    hidden = random_tokens((2, height * width, 6), seed)
    expected = plain_scores(hidden, (height, width))
    found = redundancy_scores(hidden, (height, width))
    others = expected < 1.0
    torch.testing.assert_close(found[others], expected[others])
    assert (found[~others] > found[others].max() if others.any() else found > 0).all(), "anchors come first"


def test_chunks_do_not_change_the_scores(monkeypatch):
    hidden = random_tokens((2, 48, 8), 3)
    whole = redundancy_scores(hidden, (6, 8))
    monkeypatch.setattr(redundancy, "CHUNK_LOGITS", 60)
    torch.testing.assert_close(redundancy_scores(hidden, (6, 8)), whole)


def test_a_token_that_nothing_resembles_stays():
    hidden = torch.ones(1, 64, 4)
    hidden[0, 27] = torch.tensor([-1.0, 0.0, 0.0, 0.0])  # at an odd place: no anchor
    subset = TokenSubset.top(redundancy_scores(hidden, (8, 8)), 17)
    assert 27 in subset.keep_index[0].tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_nearly_the_same_tokens(dtype):
    hidden = random_tokens((1, 256, 32), 5)
    kept = [
        set(TokenSubset.top(redundancy_scores(states, (16, 16)), 95).keep_index[0].tolist())
        for states in (hidden, hidden.to(dtype))
    ]
    assert len(kept[0] & kept[1]) >= 90


def test_dropped_tokens_have_nearer_stand_ins_than_with_a_random_choice():
    generator = torch.Generator().manual_seed(0)
    # A picture of few kinds of token, some rare.
    kinds = torch.randn(12, 16, generator=generator)
    hidden = kinds[torch.multinomial(torch.linspace(1, 12, 12) ** 3, 256, True, generator=generator)].unsqueeze(0)
    hidden = hidden + 0.05 * torch.randn(hidden.shape, generator=generator)

    def worst(scores: torch.Tensor) -> float:
        subset = stand_in_by_cosine(TokenSubset.top(scores, 95), hidden)
        return torch.cosine_similarity(hidden, subset.expand(subset.gather(hidden)), dim=-1).min().item()

    assert worst(redundancy_scores(hidden, (16, 16))) > worst(torch.rand(1, 256, generator=generator))
