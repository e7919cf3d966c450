from __future__ import annotations

from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import logits, random_tokens

from atedm_core import TokenSubset, recover, stand_in_by_attention, stand_in_by_cosine, stand_in_by_grid
from atedm_core.unet import recovery

fused = import_module("atedm_core.log_sum_exp")

GRID = (5, 7)
N = 35


def subset_of(keep: int = 11, samples: int = 2) -> TokenSubset:
    return TokenSubset.top(random_tokens((samples, N), 5), keep)


def small_chunks(monkeypatch, size: int) -> None:
    monkeypatch.setattr(fused, "CHUNK_LOGITS", size)


@pytest.mark.parametrize("chunk", [1, 50, fused.CHUNK_LOGITS])
@pytest.mark.parametrize("keep", [1, 11, N])
def test_attention_picks_the_kept_token_attended_to_most_over_all_heads(monkeypatch, chunk, keep):
    small_chunks(monkeypatch, chunk)
    q, k = random_tokens((2, 3, N, 16), 1), random_tokens((2, 3, N, 16), 2)
    subset = subset_of(keep)
    attention = logits(q, k).softmax(-1).mean(1)
    found = stand_in_by_attention(subset, q, k).source_index
    for sample in range(2):
        for position in subset.drop_index[sample].tolist():
            assert found[sample, position] == attention[sample, position, subset.keep_index[sample]].argmax()
    assert torch.equal(found.gather(1, subset.keep_index), torch.arange(keep).expand(2, keep))


@pytest.mark.parametrize("chunk", [1, 50, fused.CHUNK_LOGITS])
def test_cosine_picks_the_kept_token_that_points_the_same_way(monkeypatch, chunk):
    small_chunks(monkeypatch, chunk)
    hidden = random_tokens((2, N, 24), 1)
    subset = subset_of()
    found = stand_in_by_cosine(subset, hidden).source_index
    for sample in range(2):
        kept = hidden[sample, subset.keep_index[sample]].double()
        for position in subset.drop_index[sample].tolist():
            similarity = torch.cosine_similarity(hidden[sample, position].double().unsqueeze(0), kept)
            assert found[sample, position] == similarity.argmax()


def test_cosine_does_not_mind_states_of_zero_length():
    assert stand_in_by_cosine(subset_of(), torch.zeros(2, N, 8)).source_index.max() < 11


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), keep=st.integers(1, N))
def test_grid_picks_the_nearest_in_the_picture(seed, keep):
    subset = TokenSubset.top(random_tokens((1, N), seed), keep)
    found = stand_in_by_grid(subset, GRID).source_index[0].tolist()
    kept = subset.keep_index[0].tolist()
    for position in range(N):
        distances = [(position // 7 - j // 7) ** 2 + (position % 7 - j % 7) ** 2 for j in kept]
        assert found[position] == distances.index(min(distances))


def states(samples: int = 2):
    before = random_tokens((samples, N, 6), 1)
    return before, random_tokens((samples, 11, 6), 2)


def test_update_adds_the_stand_ins_change_to_the_tokens_own_state():
    before, after = states()
    subset = stand_in_by_grid(subset_of(), GRID)
    full = recover("update", subset, before, after)
    change = after - subset.gather(before)
    for sample in range(2):
        for position in range(N):
            expected = before[sample, position] + change[sample, subset.source_index[sample, position]]
            torch.testing.assert_close(full[sample, position], expected)


@pytest.mark.parametrize("how", recovery.RECOVERIES)
def test_kept_tokens_have_their_own_state_at_the_end(how):
    before, after = states()
    subset = stand_in_by_grid(subset_of(), GRID)
    torch.testing.assert_close(subset.gather(recover(how, subset, before, after, GRID)), after)


@pytest.mark.parametrize("how", recovery.RECOVERIES)
def test_nothing_dropped_means_nothing_changed(how):
    before, after = random_tokens((2, N, 6), 1), random_tokens((2, N, 6), 2)
    torch.testing.assert_close(recover(how, subset_of(N), before, after, GRID), after)


def test_copy_hands_over_the_state_and_zero_nothing():
    before, after = states()
    subset = stand_in_by_grid(subset_of(), GRID)
    assert torch.equal(recover("copy", subset, before, after), subset.expand(after))
    zeros = recover("zero", subset, before, after).gather(1, subset.drop_index.unsqueeze(-1).expand(-1, -1, 6))
    assert not zeros.any()


def test_interpolate_blends_the_nearest_four_by_inverse_squared_distance():
    subset = TokenSubset.top(torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0]]), 3)
    before, after = torch.zeros(1, 5, 1), torch.tensor([[[1.0], [2.0], [4.0]]])
    full = recover("interpolate", subset, before, after, (1, 5))
    nearest, further = 1.0, 1.0 / 9.0
    first = (1 * nearest + 2 * nearest + 4 * further) / (2 * nearest + further)
    second = (1 * further + 2 * nearest + 4 * nearest) / (2 * nearest + further)
    torch.testing.assert_close(full[0, :, 0], torch.tensor([1.0, first, 2.0, second, 4.0]))


def test_interpolate_keeps_a_constant_picture_constant():
    subset = subset_of()
    full = recover("interpolate", subset, torch.zeros(2, N, 6), torch.full((2, 11, 6), 3.5), GRID)
    torch.testing.assert_close(full, torch.full((2, N, 6), 3.5))


def test_an_update_that_all_tokens_share_is_recovered_exactly():
    before, _ = states()
    subset = subset_of()
    full = recover("update", subset, before, subset.gather(before) + 2.0)
    torch.testing.assert_close(full, before + 2.0)


def test_bad_arguments_are_named():
    before, after = states()
    with pytest.raises(ValueError, match=r"'blur'.*update, copy"):
        recover("blur", subset_of(), before, after)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the grid"):
        recover("interpolate", subset_of(), before, after)


def test_tokens_whose_mean_went_through_the_layers_keep_their_own_state_and_take_its_change():
    before, entered = random_tokens((2, 12, 4), 1), random_tokens((2, 5, 4), 2)
    subset = TokenSubset.top(random_tokens((2, 12), 3), 5)
    change = random_tokens((2, 5, 4), 4)
    out = recover("update", subset, before, entered + change, entered=entered)
    torch.testing.assert_close(out, before + subset.expand(change))
