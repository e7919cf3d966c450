from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import random_tokens

from atedm_core import TokenSubset, kept_tokens
from atedm_core.tokens import EvenOrder, gather_tokens


@st.composite
def scored_grids(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    samples = draw(st.integers(1, 3))
    # Few distinct values, so that ties are common.
    values = draw(st.lists(st.integers(0, 5), min_size=samples * height * width, max_size=samples * height * width))
    scores = torch.tensor(values, dtype=torch.float32).reshape(samples, height * width)
    return scores, (height, width), draw(st.integers(1, height * width)), draw(st.integers(1, 4))


def check_invariants(subset: TokenSubset, scores: torch.Tensor, keep: int) -> None:
    samples, n = scores.shape
    assert (subset.kept, subset.total) == (keep, n)
    assert subset.keep_index.shape == (samples, keep)
    assert subset.keep_index.dtype == torch.int64
    assert (subset.keep_index.diff(dim=1) > 0).all(), "grid order, nothing twice"
    everything = torch.cat([subset.keep_index, subset.drop_index], 1).sort(1).values
    assert torch.equal(everything, torch.arange(n).expand(samples, n))
    assert ((subset.source_index >= 0) & (subset.source_index < keep)).all()
    own_slot = subset.source_index.gather(1, subset.keep_index)
    assert torch.equal(own_slot, torch.arange(keep).expand(samples, keep)), "kept tokens point to themselves"


@settings(max_examples=100, deadline=None)
@given(scored_grids())
def test_top_keeps_the_best_and_breaks_ties_by_position(case):
    scores, _, keep, _ = case
    subset = TokenSubset.top(scores, keep)
    check_invariants(subset, scores, keep)
    for row, kept in zip(scores.tolist(), subset.keep_index.tolist(), strict=True):
        assert kept == sorted(sorted(range(len(row)), key=lambda i: (-row[i], i))[:keep])


@settings(max_examples=100, deadline=None)
@given(scored_grids())
def test_stratified_keeps_the_best_of_every_cell_first(case):
    scores, grid, keep, cell = case
    subset = TokenSubset.stratified(scores, keep, grid, cell)
    check_invariants(subset, scores, keep)
    for row, kept in zip(scores.tolist(), subset.keep_index.tolist(), strict=True):
        assert kept == expected_stratified(row, keep, grid, cell)


@settings(max_examples=50, deadline=None)
@given(scored_grids())
def test_equal_scores_come_in_the_even_order(case):
    scores, grid, keep, _ = case
    order = EvenOrder.of(grid)
    subset = TokenSubset.top(scores, keep, order)
    check_invariants(subset, scores, keep)
    even = order.positions.tolist()
    for row, kept in zip(scores.tolist(), subset.keep_index.tolist(), strict=True):
        assert kept == sorted(sorted(even, key=lambda i: -row[i])[:keep])


def expected_stratified(row, keep, grid, cell):
    """The definition, written plainly."""
    by_rank = sorted(EvenOrder.of(grid).positions.tolist(), key=lambda i: -row[i])
    first_of_cell = {}
    for i in by_rank:
        first_of_cell.setdefault((i // grid[1] // cell, i % grid[1] // cell), i)
    winners = set(first_of_cell.values())
    return sorted(([i for i in by_rank if i in winners] + [i for i in by_rank if i not in winners])[:keep])


def test_stratified_leaves_no_cell_empty():
    scores = torch.zeros(1, 64)
    scores[0, :24] = 1.0  # everything that matters is in the upper rows
    subset = TokenSubset.stratified(scores, 24, (8, 8))
    cells = {(i // 8 // 2, i % 8 // 2) for i in subset.keep_index[0].tolist()}
    assert len(cells) == 16
    assert len({(i // 8 // 2, i % 8 // 2) for i in TokenSubset.top(scores, 24).keep_index[0].tolist()}) < 16


def test_gather_and_expand_move_whole_tokens():
    x = random_tokens((2, 12, 5), 1)
    subset = TokenSubset.top(random_tokens((2, 12), 2), 4)
    kept = subset.gather(x)
    for sample in range(2):
        assert torch.equal(kept[sample], x[sample][subset.keep_index[sample]])
        assert torch.equal(subset.expand(kept)[sample], kept[sample][subset.source_index[sample]])
    full = subset.expand(kept)
    assert torch.equal(subset.gather(full), kept), "kept tokens survive the round trip"


def test_gather_works_on_tensors_that_are_not_contiguous():
    x = random_tokens((2, 5, 12), 1).transpose(1, 2)
    index = torch.tensor([[0, 3], [11, 2]])
    assert torch.equal(gather_tokens(x, index), torch.stack([x[0, [0, 3]], x[1, [11, 2]]]))


def test_one_samples_subset_serves_a_batch_and_rows_are_of_the_tensor_given():
    subset = TokenSubset(torch.tensor([[0, 3]]), torch.tensor([[1, 2]]), torch.tensor([[1, 0]]))
    x = random_tokens((2, 6, 3), 1)
    assert torch.equal(subset.gather(x[:, :4]), x[:, [0, 3]])
    assert torch.equal(subset.gather(x), x[:, [0, 3]])
    assert torch.equal(subset.gather_dropped(x), x[:, [1, 2]])
    assert torch.equal(subset.expand(x[:, :2]), x[:, [0, 1, 0, 1]])
    both = TokenSubset.join(
        [subset, TokenSubset(torch.tensor([[1, 2]]), torch.tensor([[0, 3]]), torch.tensor([[1, 0]]))]
    )
    assert torch.equal(both.gather(x), torch.stack([x[0, [0, 3]], x[1, [1, 2]]]))
    with pytest.raises(RuntimeError):
        both.gather(random_tokens((4, 4, 3), 1))


def test_what_is_known_of_the_tokens_stays_with_other_stand_ins():
    subset = TokenSubset(torch.tensor([[0, 3], [1, 2]]), torch.tensor([[1, 2], [0, 3]]), torch.tensor([[1, 0], [1, 0]]))
    x = random_tokens((2, 4, 3), 1)
    before = subset.gather(x), subset.gather_dropped(x), subset.expand(x[:, :2])
    other = subset.with_stand_ins(torch.zeros(2, 2, dtype=torch.int64))
    assert torch.equal(other.gather(x), before[0])
    assert torch.equal(other.gather_dropped(x), before[1])
    assert torch.equal(other.expand(x[:, :2]), torch.stack([x[0, [0, 0, 0, 1]], x[1, [0, 0, 1, 0]]]))


def test_dropped_tokens_start_with_the_nearest_kept_in_order():
    subset = TokenSubset.top(torch.tensor([[0.0, 9.0, 0.0, 0.0, 0.0, 9.0, 0.0]]), 2)
    assert subset.keep_index.tolist() == [[1, 5]]
    assert subset.source_index.tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_other_stand_ins_leave_kept_tokens_alone():
    top = TokenSubset.top(torch.tensor([[3.0, 0.0, 2.0, 0.0]]), 2)
    subset = replace(top, stand_ins=torch.tensor([[1, 0]]))
    assert subset.source_index.tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize(("tokens", "ratio", "kept"), [(4096, 0.63, 1516), (1024, 0.63, 379), (1, 0.9, 1), (9, 0.0, 9)])
def test_kept_tokens_rounds_to_the_nearest_and_never_to_none(tokens, ratio, kept):
    assert kept_tokens(tokens, ratio) == kept


def test_bad_arguments_are_named():
    scores = torch.zeros(2, 6)
    for keep in (0, 7):
        with pytest.raises(ValueError, match=f"cannot keep {keep} tokens"):
            TokenSubset.top(scores, keep)
    with pytest.raises(ValueError, match="grid 2 x 4"):
        TokenSubset.stratified(scores, 3, (2, 4))
    for ratio in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="ratio is"):
            kept_tokens(10, ratio)


@settings(max_examples=50, deadline=None)
@given(scored_grids(), st.sampled_from([torch.float32, torch.float64, torch.float16]), st.booleans())
def test_a_kept_token_stands_for_its_members_by_their_mean_and_number(case, dtype, chosen):
    scores, _, keep, _ = case
    subset = TokenSubset.top(scores, keep)
    if chosen:
        subset = replace(subset, stand_ins=torch.arange(subset.drop_index.numel()).view_as(subset.drop_index) % keep)
    x = random_tokens((*scores.shape, 5), 4).to(dtype)
    means, members = subset.mean(x), subset.members
    assert means.dtype == dtype
    assert torch.equal(members.sum(1), torch.full((len(x),), float(scores.shape[1])))
    for sample in range(len(x)):
        for slot in range(keep):
            own = x[sample][subset.source_index[sample] == slot]
            assert members[sample, slot] == len(own)
            torch.testing.assert_close(
                means[sample, slot], own.to(torch.float64).mean(0).to(dtype), rtol=2e-3, atol=2e-3
            )


def test_the_mean_of_large_half_precision_states_does_not_overflow():
    subset = TokenSubset.top(torch.arange(64.0).flip(0).unsqueeze(0), 1)
    x = torch.full((1, 64, 3), 60000.0, dtype=torch.float16)
    assert torch.equal(subset.mean(x), x[:, :1])
