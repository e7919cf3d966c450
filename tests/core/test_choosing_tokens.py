from __future__ import annotations

from functools import partial

import pytest
import torch
from reference import dense_cross_gwpr, dense_gwpr, logits, random_tokens

from atedm_core import (
    LayerAttention,
    PruneSettings,
    TokenSubset,
    choose_stand_ins,
    combine_heads,
    gwpr,
    rank_states,
    rank_tokens,
    select_tokens,
    stand_in_by_attention,
    stand_in_by_cosine,
    stand_in_by_grid,
)
from atedm_core.tokens import EvenOrder
from atedm_core.unet import ranking as pruning

GRID = (6, 8)
SELF = (random_tokens((2, 3, 48, 16), 1), random_tokens((2, 3, 48, 16), 2))
CROSS = (random_tokens((2, 3, 48, 16), 3), random_tokens((2, 3, 77, 16), 4))
HIDDEN = random_tokens((2, 48, 48), 5)
SEEN = LayerAttention(*SELF, cross=CROSS)


attending = partial(PruneSettings, ranking="self-attention")


def choose(**changes) -> TokenSubset:
    settings = attending(**changes)
    subset = select_tokens(settings, rank_tokens(settings, SEEN, GRID), 18, GRID)
    return choose_stand_ins(settings, subset, GRID, HIDDEN, SEEN)


def test_ranking_follows_the_attention_that_was_asked_for():
    for ranking, scores in (("self-attention", dense_gwpr(*SELF, 3)), ("cross-attention", dense_cross_gwpr(*CROSS, 3))):
        chosen = choose(ranking=ranking, iterations=3, selection="top-k")
        assert torch.equal(chosen.keep_index, TokenSubset.top(combine_heads(scores), 18).keep_index)


def test_voters_on_a_lattice_rank_by_their_rows_of_the_map(monkeypatch):
    monkeypatch.setattr(pruning, "LATTICE_VOTERS", 12)
    attention = logits(*SELF).softmax(-1)
    lattice = [row * 8 + column for row in range(0, 6, 2) for column in range(0, 8, 2)]
    expected = combine_heads(attention[:, :, lattice].mean(2))
    found = rank_tokens(attending(voters="lattice"), SEEN, GRID)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)


def test_the_layers_own_log_sum_exp_changes_nothing(monkeypatch):
    monkeypatch.setattr(pruning, "LATTICE_VOTERS", 12)
    row_log_sum = logits(*SELF).logsumexp(-1).float()
    for voters in ("all", "lattice"):
        settings = attending(voters=voters, iterations=3)
        given = rank_tokens(settings, LayerAttention(*SELF, row_log_sum), GRID)
        torch.testing.assert_close(given, rank_tokens(settings, SEEN, GRID), rtol=1e-4, atol=1e-7)


def test_selection_follows_the_setting():
    scores = combine_heads(gwpr(*SELF))
    assert torch.equal(choose(selection="top-k").keep_index, TokenSubset.top(scores, 18).keep_index)
    stratified = TokenSubset.stratified(scores, 18, GRID)
    assert torch.equal(choose(selection="stratified").keep_index, stratified.keep_index)
    assert not torch.equal(choose(selection="top-k").keep_index, choose(selection="stratified").keep_index)


def test_stand_ins_follow_the_setting():
    base = choose(stand_in="grid")
    assert torch.equal(base.source_index, stand_in_by_grid(base, GRID).source_index)
    assert torch.equal(choose(stand_in="cosine").source_index, stand_in_by_cosine(base, HIDDEN).source_index)
    assert torch.equal(choose(stand_in="attention").source_index, stand_in_by_attention(base, *SELF).source_index)


def test_without_attention_at_hand_cosine_takes_its_place():
    settings = attending(stand_in="attention")
    base = choose(stand_in="grid")
    found = choose_stand_ins(settings, base, GRID, HIDDEN, None)
    assert torch.equal(found.source_index, stand_in_by_cosine(base, HIDDEN).source_index)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ranking": "votes"}, "ranking is 'votes'"),
        ({"selection": "best"}, "selection is 'best'"),
        ({"stand_in": "none"}, "stand_in is 'none'"),
        ({"recovery": "blur"}, "recovery is 'blur'"),
        ({"iterations": 0}, "iterations is 0"),
        ({"iterations": 21}, "1 to 20"),
        ({"prune_from": "the end"}, "prune_from is 'the end'"),
        ({"voters": "half"}, "voters is 'half'"),
        ({"rank_interval": 0}, "rank_interval is 0"),
    ],
)
def test_settings_that_do_not_exist_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        PruneSettings(**values)


def test_ranking_by_cross_attention_needs_cross_attention():
    with pytest.raises(ValueError, match="no cross-attention"):
        rank_tokens(PruneSettings(ranking="cross-attention"), LayerAttention(*SELF), GRID)


@pytest.mark.parametrize("grid", [(8, 8), (16, 4), (5, 7), (1, 9)])
def test_without_a_ranking_tokens_come_in_an_even_order(grid):
    tokens = grid[0] * grid[1]
    even = EvenOrder.of(grid)
    scores = even.scores
    assert scores.unique().numel() == tokens
    assert scores.min() > 0
    order = scores.argsort(descending=True).tolist()
    assert even.positions.tolist() == order
    half = {divmod(position, grid[1]) for position in order[: tokens // 2]}
    assert all((y + x) % 2 == 0 for y, x in half)
    ranked = rank_states(PruneSettings(ranking="none"), random_tokens((2, tokens, 8), 1), tokens, grid)
    assert torch.equal(ranked, scores.expand(2, tokens))


@pytest.mark.parametrize("ranking", ["none", "redundancy"])
def test_rankings_without_attention_say_where_they_are_made(ranking):
    with pytest.raises(ValueError, match=f"'{ranking}'.*rank_states"):
        rank_tokens(PruneSettings(ranking=ranking), LayerAttention(*SELF), GRID)


def test_an_even_order_keeps_as_many_in_every_part_of_the_picture():
    settings = PruneSettings(ranking="none", selection="top-k")
    ranked = rank_states(settings, torch.zeros(1, 256, 4), 96, (16, 16))
    kept = select_tokens(settings, ranked, 64, (16, 16)).keep_index[0]
    quarters = [(int(position) // 16 // 8, int(position) % 16 // 8) for position in kept]
    assert [quarters.count(one) for one in ((0, 0), (0, 1), (1, 0), (1, 1))] == [16, 16, 16, 16]
