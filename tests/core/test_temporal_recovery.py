"""A dropped token takes its own last update, and which tokens are dropped rotates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import random_tokens

from atedm_core import PruneSettings, TokenSubset, recover, select_tokens, stand_in_by_cosine
from atedm_core.unet.temporal import TokenUpdates, is_trusted, oldest_first, recover_with_own

GRID = (5, 7)
N = 35
KEEP = 11


def subset_of(seed: int = 5, keep: int = KEEP, samples: int = 2) -> TokenSubset:
    return TokenSubset.top(random_tokens((samples, N), seed), keep)


def step(subset: TokenSubset, own: TokenUpdates, seed: int = 1, start: torch.Tensor | None = None):
    """A call in which tokens are changed in nearly the same way at every seed, each in its own."""
    before = random_tokens((2, N, 6), seed)
    update = random_tokens((2, N, 6), 200) + 0.1 * random_tokens((2, N, 6), seed + 100)
    after = subset.gather((before if start is None else start) + update)
    full, remembered = recover_with_own(subset, before, after, own, start)
    return before, after, full, remembered


def nothing() -> TokenUpdates:
    return TokenUpdates.none(torch.zeros(2, N, 6))


def test_without_a_memory_it_is_the_stand_ins_update():
    subset = stand_in_by_cosine(subset_of(), random_tokens((2, N, 6), 9))
    before, after, full, _ = step(subset, nothing())
    torch.testing.assert_close(full, recover("update", subset, before, after))


def test_a_dropped_token_takes_the_update_it_last_received_itself():
    first, second = subset_of(5), subset_of(6)
    before, after, _, own = step(first, nothing())
    change = first.expand(after - first.gather(before))
    later_before, later_after, full, _ = step(second, own, seed=2)
    later_change = second.expand(later_after - second.gather(later_before))
    for sample in range(2):
        kept_now, kept_then = second.keep_index[sample].tolist(), first.keep_index[sample].tolist()
        for position in set(range(N)) - set(kept_now):
            given_back = change if position in kept_then else later_change
            expected = later_before[sample, position] + given_back[sample, position]
            torch.testing.assert_close(full[sample, position], expected)


def test_kept_tokens_come_out_as_they_are():
    _, _, _, own = step(subset_of(5), nothing())
    second = subset_of(6)
    _, after, full, _ = step(second, own, seed=2)
    assert torch.equal(second.gather(full), after)


def test_after_a_whole_pass_no_stand_in_is_needed():
    before = random_tokens((2, N, 6), 1)
    update = random_tokens((2, N, 6), 200)
    own = TokenUpdates.of_all(before, before + update)
    subset = subset_of()
    later_before, later_after, full, _ = step(subset, own, seed=3)
    expected = later_before + update
    expected = expected.scatter(1, subset.keep_index.unsqueeze(-1).expand(-1, -1, 6), later_after)
    torch.testing.assert_close(full, expected)
    assert own.known.all()


def test_nothing_that_was_remembered_is_changed_in_place():
    """The memory of one condition may be a view of a batch that another one reads."""
    _, _, _, own = step(subset_of(5), nothing())
    copies = [own.update.clone(), own.age.clone(), own.known.clone()]
    step(subset_of(6), own, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(copies, (own.update, own.age, own.known), strict=True))


def test_updates_may_count_from_an_earlier_state_than_the_pruning_point():
    """At a block's start tokens are dropped before the first layer or, where they are ranked, within it."""
    start = random_tokens((2, N, 6), 40)
    first, second = subset_of(5), subset_of(6)
    _, after, _, own = step(first, nothing(), start=start)
    torch.testing.assert_close(first.gather(own.update), after - first.gather(start))
    later_start = random_tokens((2, N, 6), 41)
    _, _, full, _ = step(second, own, seed=2, start=later_start)
    for sample in range(2):
        for position in set(first.keep_index[sample].tolist()) - set(second.keep_index[sample].tolist()):
            torch.testing.assert_close(
                full[sample, position], later_start[sample, position] + own.update[sample, position]
            )


def test_a_memory_that_mispredicts_the_kept_tokens_is_not_used():
    """One sample's memory is of another picture; its neighbour in the batch keeps its own."""
    before = random_tokens((2, N, 6), 1)
    own = TokenUpdates.of_all(before, before + random_tokens((2, N, 6), 200))
    wrong = TokenUpdates(torch.stack([own.update[0], own.update[0]]), own.age, own.known)
    subset = subset_of()
    later, after, full, remembered = step(subset, wrong, seed=3)
    _, _, trusted, _ = step(subset, own, seed=3)
    torch.testing.assert_close(full[0], trusted[0])
    torch.testing.assert_close(full[1], recover("update", subset, later, after)[1])
    fresh = after - subset.gather(later)
    assert is_trusted(subset, fresh, wrong).tolist() == [True, False]
    torch.testing.assert_close(subset.gather(remembered.update), fresh)


def test_a_memory_of_no_kept_token_has_nothing_against_it():
    first = subset_of(5)
    _, _, _, own = step(first, nothing())
    others = TokenSubset.from_order(torch.cat([first.drop_index, first.keep_index], dim=1), KEEP)
    before, _, full, _ = step(others, own, seed=2)
    torch.testing.assert_close(first.gather(full), first.gather(before + own.update))


def test_a_memory_that_is_not_a_number_is_not_used():
    before = random_tokens((2, N, 6), 1)
    own = TokenUpdates.of_all(before, torch.full_like(before, float("nan")))
    subset = subset_of()
    later, after, full, _ = step(subset, own, seed=3)
    torch.testing.assert_close(full, recover("update", subset, later, after))


def test_age_is_counted_from_the_last_update():
    subset = subset_of()
    _, _, _, own = step(subset, nothing())
    own = own.older(1)
    kept = torch.zeros(2, N, dtype=torch.bool).scatter(1, subset.keep_index, True)
    assert torch.equal(own.age, torch.where(kept, 1.0, 2.0))
    assert torch.equal(own.known, kept)
    assert own.older(0) is own
    assert torch.equal(own.older(3).age, own.age + 3)


def test_joined_and_split_batches_are_what_they_were():
    parts = [step(subset_of(seed), nothing(), seed)[3] for seed in (5, 6, 7)]
    for found, part in zip(TokenUpdates.join(parts).split(3), parts, strict=True):
        assert torch.equal(found.update, part.update)
        assert torch.equal(found.age, part.age)
        assert torch.equal(found.known, part.known)
    assert TokenUpdates.join(parts[:1]) is parts[0]


def test_the_oldest_come_first_and_of_those_the_best():
    scores = random_tokens((2, N), 1).mul(3).exp()
    age = random_tokens((2, N), 2).mul(2).abs().round() + 1
    order = oldest_first(scores, age).argsort(descending=True, stable=True)
    for sample in range(2):
        keys = [(age[sample, position].item(), scores[sample, position].item()) for position in order[sample].tolist()]
        assert keys == sorted(keys, reverse=True)


def test_equal_ages_leave_the_order_as_it_is():
    scores = random_tokens((3, N), 1).abs()
    stale = oldest_first(scores, torch.full((3, N), 4.0))
    assert torch.equal(stale.argsort(stable=True), scores.argsort(stable=True))


def test_scores_of_zero_are_no_obstacle():
    assert torch.isfinite(oldest_first(torch.zeros(2, N), torch.ones(2, N))).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), keep=st.integers(12, N - 1), selection=st.sampled_from(["stratified", "top-k"]))
def test_every_token_gets_its_turn(seed, keep, selection):
    """However the scores fall: here some are favoured a thousand times over at every level."""
    favoured = random_tokens((1, N), seed).mul(3).exp()
    chosen = PruneSettings(selection=selection)
    own = TokenUpdates.none(torch.zeros(1, N, 1))
    longest = 4 if selection == "stratified" else -(-N // keep)
    for level in range(3 * longest):
        subset = select_tokens(chosen, favoured, keep, GRID, own.age)
        _, own = recover_with_own(subset, torch.zeros(1, N, 1), torch.zeros(1, keep, 1), own)
        own = own.older(1)
        if level + 1 >= longest:
            assert own.known.all()
            assert own.age.max() <= longest


def test_without_ages_some_never_would():
    favoured = random_tokens((1, N), 3).mul(3).exp()
    kept = {tuple(select_tokens(PruneSettings(), favoured, 9, GRID).keep_index[0].tolist()) for _ in range(12)}
    assert len(kept) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half(dtype):
    before, after = random_tokens((2, N, 6), 1).to(dtype), random_tokens((2, KEEP, 6), 2).to(dtype)
    full, own = recover_with_own(subset_of(), before, after, TokenUpdates.none(before))
    assert full.dtype == own.update.dtype == dtype
    assert own.age.dtype == torch.float32
