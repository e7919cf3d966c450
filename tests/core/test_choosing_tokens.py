from __future__ import annotations

import pytest
import torch
from reference import dense_cross_gwpr, dense_gwpr, random_tokens

from atedm_core import (
    PruneSettings,
    TokenSubset,
    choose_tokens,
    combine_heads,
    gwpr,
    stand_in_by_attention,
    stand_in_by_cosine,
    stand_in_by_grid,
)

GRID = (6, 8)
SELF = (random_tokens((2, 3, 48, 16), 1), random_tokens((2, 3, 48, 16), 2))
CROSS = (random_tokens((2, 3, 48, 16), 3), random_tokens((2, 3, 77, 16), 4))
HIDDEN = random_tokens((2, 48, 48), 5)


def choose(**changes) -> TokenSubset:
    return choose_tokens(PruneSettings(**changes), 18, GRID, HIDDEN, SELF, CROSS)


def test_ranking_follows_the_attention_that_was_asked_for():
    for ranking, scores in (("self-attention", dense_gwpr(*SELF, 3)), ("cross-attention", dense_cross_gwpr(*CROSS, 3))):
        chosen = choose(ranking=ranking, iterations=3, selection="top-k")
        assert torch.equal(chosen.keep_index, TokenSubset.top(combine_heads(scores), 18).keep_index)


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ranking": "votes"}, "ranking is 'votes'"),
        ({"selection": "best"}, "selection is 'best'"),
        ({"stand_in": "none"}, "stand_in is 'none'"),
        ({"recovery": "blur"}, "recovery is 'blur'"),
        ({"iterations": 0}, "iterations is 0"),
        ({"iterations": 21}, "1 to 20"),
    ],
)
def test_settings_that_do_not_exist_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        PruneSettings(**values)


def test_ranking_by_cross_attention_needs_cross_attention():
    with pytest.raises(ValueError, match="no cross-attention"):
        choose_tokens(PruneSettings(ranking="cross-attention"), 18, GRID, HIDDEN, SELF)
