from __future__ import annotations

from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import random_tokens, smooth_states

from atedm_core import PruneSettings, TokenSubset, rank_states, select_tokens
from atedm_core.unet import similarity
from atedm_core.unet.recovery import recover, stand_in_by_cosine
from atedm_core.unet.redundancy import SETTLED, anchors_of, lattice_cell, redundancy_scores
from atedm_core.unet.similarity import Directions


def unlike(hidden: torch.Tensor, anchors: list[int], token: int) -> float:
    """How little a token of one sample's states `[N, C]` resembles the most similar anchor: minus the cosine."""
    return -float(torch.cosine_similarity(hidden[anchors], hidden[token : token + 1], dim=-1).max())


def plain_choice(hidden: torch.Tensor, grid: tuple[int, int], keep: int) -> tuple[list[int], list[int], list[float]]:
    """The definition for one sample's states `[N, C]`, written plainly: the lattice, what rounds pick, all scores."""
    edge = next(edge for edge in (4, 8, 16, 32) if len(hidden) / edge**2 <= keep / 4)
    lattice = [y * grid[1] + x for y in range(0, grid[0], edge) for x in range(0, grid[1], edge)]
    tokens = range(len(hidden))
    scores = [unlike(hidden, lattice, token) for token in tokens]
    count = max(0, min((keep - len(lattice)) // 3, len(hidden) // 4 // 2))
    picked: list[int] = []
    for _ in range(2):
        others = sorted((token for token in tokens if token not in lattice + picked), key=lambda token: -scores[token])
        picked += others[:count]
        scores = [unlike(hidden, lattice + picked, token) for token in tokens]
    return lattice, picked, scores


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 10), st.integers(1, 10), st.floats(0.05, 1.0), st.integers(0, 99))
def test_anchors_come_first_then_in_rounds_the_tokens_least_like_any_anchor_and_any_picked(height, width, share, seed):
    tokens = height * width
    keep = max(1, round(share * tokens))
    hidden = random_tokens((2, tokens, 6), seed)
    found = redundancy_scores(hidden, (height, width), keep)
    for sample in range(2):
        lattice, picked, scores = plain_choice(hidden[sample], (height, width), keep)
        others = [token for token in range(tokens) if token not in {*lattice, *picked}]
        assert (found[sample, lattice] > SETTLED).all()
        assert (found[sample, picked] == SETTLED).all()
        torch.testing.assert_close(found[sample, others], torch.tensor(scores, dtype=found.dtype)[others])


@pytest.mark.parametrize(("keep", "edge"), [(1024, 4), (256, 4), (255, 8), (64, 8), (63, 16), (16, 16), (1, 64)])
def test_the_lattice_takes_a_quarter_of_what_stays_at_most(keep, edge):
    assert lattice_cell(1024, keep) == edge
    assert anchors_of(1024, keep) <= max(1, keep / 4)


def test_what_stays_follows_the_content_where_little_may_stay():
    """Thirty tokens in a corner that nothing resembles, of 256; a lattice of 2 x 2 cells alone would take all 64."""
    hidden = torch.zeros(1, 256, 40)
    hidden[..., 0] = 1.0
    busy = [y * 16 + x for y in range(9, 14) for x in range(9, 15)]
    for channel, token in enumerate(busy):
        hidden[0, token] = 0.0
        hidden[0, token, channel + 1] = 1.0
    subset = TokenSubset.top(redundancy_scores(hidden, (16, 16), 64), 64)
    assert set(busy) <= set(subset.keep_index[0].tolist())


def test_chunks_do_not_change_the_scores(monkeypatch):
    hidden = random_tokens((2, 48, 8), 3)
    whole = redundancy_scores(hidden, (6, 8), 20)
    monkeypatch.setattr(import_module("atedm_core.log_sum_exp"), "CHUNK_LOGITS", 60)
    torch.testing.assert_close(redundancy_scores(hidden, (6, 8), 20), whole)


def test_anchors_come_in_an_even_order_where_not_all_of_them_can_stay():
    scores = redundancy_scores(random_tokens((1, 64, 8), 2), (1, 64), 4)
    assert TokenSubset.top(scores, 4).keep_index[0].tolist() == [0, 16, 32, 48]


def test_what_is_not_a_number_stays_visible():
    hidden = random_tokens((1, 64, 8), 2)
    hidden[0, 9] = float("nan")
    assert redundancy_scores(hidden, (8, 8), 20)[0, 9].isnan()


def test_a_token_that_nothing_resembles_stays():
    hidden = torch.ones(1, 64, 4)
    hidden[0, 27] = torch.tensor([-1.0, 0.0, 0.0, 0.0])  # at an odd place: no anchor
    subset = TokenSubset.top(redundancy_scores(hidden, (8, 8), 17), 17)
    assert 27 in subset.keep_index[0].tolist()


def kept_of(hidden: torch.Tensor, grid: tuple[int, int], keep: int) -> TokenSubset:
    ranking = PruneSettings()
    return select_tokens(ranking, rank_states(ranking, hidden, keep, grid), keep, grid)


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


@HALVES
def test_half_precision_keeps_the_tokens_that_float64_keeps(dtype):
    hidden = smooth_states((24, 32), 320, 5, samples=2).to(dtype)
    for found, expected in zip(
        kept_of(hidden, (24, 32), 284).keep_index.tolist(),
        kept_of(hidden.double(), (24, 32), 284).keep_index.tolist(),
        strict=True,
    ):
        assert len(set(found) & set(expected)) >= 0.99 * 284


@HALVES
def test_half_precision_finds_the_stand_ins_that_float64_finds(dtype):
    hidden = smooth_states((24, 32), 320, 6).to(dtype)
    subset = kept_of(hidden, (24, 32), 284)
    found, expected = (stand_in_by_cosine(subset, states, (24, 32)).stand_ins for states in (hidden, hidden.double()))
    assert (found == expected).float().mean() > 0.99


@HALVES
def test_a_device_that_multiplies_into_float32_gives_the_same(dtype, monkeypatch):
    hidden = smooth_states((24, 32), 320, 7).to(dtype)
    scores = redundancy_scores(hidden, (24, 32), 284)
    slots = stand_in_by_cosine(kept_of(hidden, (24, 32), 284), hidden).stand_ins
    product = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b, out_dtype: product(a.to(out_dtype), b.to(out_dtype)))
    monkeypatch.setattr(similarity, "_multiplies_into_float32", lambda device, dtype: True)
    assert torch.equal(Directions.of(hidden).rows, hidden)
    torch.testing.assert_close(Directions.of(hidden).unit, torch.nn.functional.normalize(hidden.float(), dim=-1))
    torch.testing.assert_close(redundancy_scores(hidden, (24, 32), 284), scores, rtol=0, atol=4e-6)
    assert (stand_in_by_cosine(kept_of(hidden, (24, 32), 284), hidden).stand_ins == slots).float().mean() > 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tokens_that_are_zero_resemble_nothing(dtype):
    hidden = smooth_states((8, 8), 16, 8).to(dtype)
    hidden[:, :20] = 0.0
    scores = redundancy_scores(hidden, (8, 8), 4)
    assert scores.isfinite().all()
    assert (scores[0, [1, 3, 9, 10, 19]] == 0.0).all()
    kept = kept_of(hidden, (8, 8), 20)
    assert stand_in_by_cosine(kept, hidden, (8, 8)).stand_ins.max() < 20


def test_what_is_ready_to_be_compared_serves_ranking_stand_ins_and_regression():
    hidden = smooth_states((12, 16), 40, 11, samples=2)
    states = Directions.of(hidden)
    assert Directions.of(states) is states
    scores = redundancy_scores(hidden, (12, 16), 60)
    assert torch.equal(redundancy_scores(states, (12, 16), 60), scores)
    subset = TokenSubset.top(scores, 60)
    found, expected = (stand_in_by_cosine(subset, one, (12, 16)) for one in (states, hidden))
    assert torch.equal(found.stand_ins, expected.stand_ins)
    after = subset.gather(hidden) + 1.0
    plain = recover("regression", found, hidden, after)
    assert torch.equal(recover("regression", found, hidden, after, directions=states), plain)


def test_lengths_beyond_half_precision_change_nothing():
    hidden = smooth_states((16, 16), 64, 9).half()
    long = hidden * 2.0**12
    assert long.isfinite().all()
    assert long.norm(dim=-1).isinf().all()
    kept, expected = kept_of(long, (16, 16), 95), kept_of(hidden, (16, 16), 95)
    assert torch.equal(kept.keep_index, expected.keep_index)
    slots = stand_in_by_cosine(kept, long, (16, 16)).stand_ins
    assert torch.equal(slots, stand_in_by_cosine(expected, hidden, (16, 16)).stand_ins)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tokens_all_alike_are_kept_evenly_and_stand_in_for_their_neighbours(dtype):
    hidden = torch.ones(1, 256, 16, dtype=dtype)
    ranking = PruneSettings()
    subset = select_tokens(ranking, rank_states(ranking, hidden, 96, (16, 16)), 96, (16, 16))
    rows, columns = subset.keep_index[0] // 16, subset.keep_index[0] % 16
    quarters = [int(((rows // 8 == y) & (columns // 8 == x)).sum()) for y in (0, 1) for x in (0, 1)]
    assert quarters == [24, 24, 24, 24]
    own = subset.keep_index[0][stand_in_by_cosine(subset, hidden, (16, 16)).stand_ins[0]]
    apart = [(own // 16 - subset.drop_index[0] // 16).abs(), (own % 16 - subset.drop_index[0] % 16).abs()]
    assert torch.stack(apart).max() == 1


@pytest.mark.parametrize("ranked_by", ["self-attention", "cross-attention"])
@pytest.mark.parametrize("selection", ["stratified", "top-k"])
def test_equal_scores_of_attention_keep_tokens_evenly(ranked_by, selection):
    ranking = PruneSettings(ranked_by, selection=selection)
    rows = select_tokens(ranking, torch.full((1, 256), 1 / 256), 96, (16, 16)).keep_index[0] // 16
    assert (rows < 8).sum() == 48


def test_float64_states_are_compared_in_float64():
    hidden = smooth_states((6, 6), 16, 10).double()
    found = redundancy_scores(hidden, (6, 6), 6)
    assert found.dtype == torch.float64
    lattice, picked, scores = plain_choice(hidden[0], (6, 6), 6)
    others = [token for token in range(36) if token not in {*lattice, *picked}]
    torch.testing.assert_close(
        found[0, others], torch.tensor(scores, dtype=torch.float64)[others], rtol=1e-12, atol=1e-15
    )


def test_dropped_tokens_have_nearer_stand_ins_than_with_a_random_choice():
    generator = torch.Generator().manual_seed(0)
    # A picture of few kinds of token, some rare.
    kinds = torch.randn(12, 16, generator=generator)
    hidden = kinds[torch.multinomial(torch.linspace(1, 12, 12) ** 3, 256, True, generator=generator)].unsqueeze(0)
    hidden = hidden + 0.05 * torch.randn(hidden.shape, generator=generator)

    def worst(scores: torch.Tensor) -> float:
        subset = stand_in_by_cosine(TokenSubset.top(scores, 95), hidden)
        return torch.cosine_similarity(hidden, subset.expand(subset.gather(hidden)), dim=-1).min().item()

    assert worst(redundancy_scores(hidden, (16, 16), 95)) > worst(torch.rand(1, 256, generator=generator))
