"""Tokens chosen by how wrong they are likely to have become, and how what is kept of the others moves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atedm_core.dit.drift import drift_per_step
from atedm_core.dit.expected_error import ExpectedErrorSelector, selector_of
from atedm_core.dit.selection import CATSelection, TokenSelector

GRID = (12, 10)
TOKENS = GRID[0] * GRID[1]


def moving(pace: torch.Tensor, steps: int, keep: float = 0.25, full: int = 2) -> list[torch.Tensor]:
    """The sets of a run in which every token's noise moves along a line of its own at a constant pace, `[B, N]`."""
    selector = ExpectedErrorSelector(CATSelection(keep), GRID)
    ways = torch.randn(*pace.shape, 4, generator=torch.Generator().manual_seed(0))
    velocity = ways / ways.norm(dim=-1, keepdim=True) * pace.unsqueeze(-1)
    for step in range(full):
        held = velocity * step
        selector.observe(held, full=True)
    sets = []
    for step in range(full, full + steps):
        chosen = selector.choose()
        index = chosen.unsqueeze(-1).expand(-1, -1, 4)
        held = held.scatter(1, index, (velocity * step).gather(1, index))
        selector.observe(held, full=False)
        sets.append(chosen)
    return sets


def times_chosen(sets: list[torch.Tensor]) -> torch.Tensor:
    """`[B, N]`"""
    return torch.stack([torch.zeros(len(one), TOKENS).scatter(1, one, 1.0) for one in sets]).sum(0)


@given(keep=st.floats(0.01, 1.0), images=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_every_image_gets_exactly_k_different_tokens_in_order(keep: float, images: int, seed: int) -> None:
    pace = torch.rand(images, TOKENS, generator=torch.Generator().manual_seed(seed)) ** 3
    for chosen in moving(pace, 3, keep):
        assert chosen.shape == (images, CATSelection(keep).kept(TOKENS))
        assert (chosen.diff(dim=1) > 0).all()
        assert 0 <= chosen.min() <= chosen.max() < TOKENS


def test_turns_come_in_proportion_to_the_root_of_the_pace() -> None:
    # no two paces are alike: between equal errors rounding would decide, differently on every processor
    pace = 1.0 + 15.0 * torch.rand(1, TOKENS, generator=torch.Generator().manual_seed(0))
    turns = times_chosen(moving(pace, 480, keep=0.05))[0]
    assert turns.max() / turns.min() > 3.0
    in_proportion = pace[0].sqrt() * (turns.sum() / pace.sqrt().sum())
    torch.testing.assert_close(turns, in_proportion, rtol=0.12, atol=0.0)


def test_tokens_of_one_pace_take_turns() -> None:
    turns = times_chosen(moving(torch.ones(1, TOKENS), 8))
    assert turns.min() == turns.max() == 2


def test_tokens_that_never_changed_get_their_turn_all_the_same() -> None:
    pace = torch.zeros(1, TOKENS)
    pace[:, :20] = 1.0
    assert times_chosen(moving(pace, 60)).min() >= 1


def test_ties_are_taken_evenly_from_the_whole_image() -> None:
    selector = ExpectedErrorSelector(CATSelection(0.25), GRID)
    for value in (0.0, 1.0):
        selector.observe(torch.full((1, TOKENS, 1), value), full=True)
    rows = torch.bincount(selector.choose()[0] // GRID[1], minlength=GRID[0])
    assert 1 <= rows.min() <= rows.max() <= 4


def test_an_image_does_not_depend_on_its_batch() -> None:
    pace = torch.rand(3, TOKENS, generator=torch.Generator().manual_seed(4))
    selectors = [ExpectedErrorSelector(CATSelection(0.2), GRID) for _ in range(4)]
    noise = [torch.randn(3, TOKENS, 4, generator=torch.Generator().manual_seed(i)) * pace[..., None] for i in range(4)]
    for one in noise:
        selectors[0].observe(one, full=True)
        for image in range(3):
            selectors[1 + image].observe(one[image : image + 1], full=True)
    together = selectors[0].choose()
    assert all(torch.equal(together[image], selectors[1 + image].choose()[0]) for image in range(3))


def test_the_pace_is_the_change_over_the_steps_waited() -> None:
    """A token that was computed late has changed more, and is not taken for a fast one."""
    selector = ExpectedErrorSelector(CATSelection(0.5), (1, 4))
    still, step = torch.zeros(1, 4, 1), torch.ones(1, 4, 1)
    selector.observe(still, full=True)
    selector.observe(step, full=True)
    chosen = selector.choose()[0].tolist()
    others = [token for token in range(4) if token not in chosen]
    noise = step.clone()
    noise[0, chosen] = 2.0
    selector.observe(noise, full=False)
    assert selector.choose()[0].tolist() == others, "they have waited twice as long"
    assert selector.waited is not None
    assert selector.waited.tolist() == [[2.0, 2.0]]
    noise = noise.clone()
    noise[0, others] = 3.0
    selector.observe(noise, full=False)
    assert selector.choose()[0].tolist() == chosen, "all have the same pace: turns go on"


def test_another_evaluation_of_the_same_step_is_no_step() -> None:
    selector = ExpectedErrorSelector(CATSelection(0.5), (1, 4))
    noise = torch.randn(5, 1, 4, 2, generator=torch.Generator().manual_seed(0))
    selector.observe(noise[0], full=True)
    selector.observe(noise[1], full=True, again=True)
    assert not selector.ready
    selector.observe(noise[2], full=True)
    before = selector.choose()
    selector.observe(noise[3], full=True, again=True)
    assert torch.equal(selector.choose(), before)


def test_forced_tokens_are_in() -> None:
    selector = ExpectedErrorSelector(CATSelection(0.1), GRID)
    for seed in range(2):
        selector.observe(torch.randn(2, TOKENS, 4, generator=torch.Generator().manual_seed(seed)), full=True)
    forced = torch.zeros(2, TOKENS, dtype=torch.bool)
    forced[0, 7] = forced[1, 90] = True
    chosen = selector.choose(forced)
    assert 7 in chosen[0]
    assert 90 in chosen[1]


def test_choosing_too_early_is_an_error_and_so_it_is_after_another_shape() -> None:
    selector = ExpectedErrorSelector(CATSelection(), (2, 2))
    selector.observe(torch.zeros(1, 4, 2), full=True)
    with pytest.raises(RuntimeError, match="two full steps"):
        selector.choose()
    selector.observe(torch.ones(1, 4, 2), full=True)
    assert selector.ready
    selector.observe(torch.ones(2, 4, 2), full=True)
    assert not selector.ready


def test_the_settings_say_what_chooses() -> None:
    assert type(selector_of(CATSelection(), GRID)) is TokenSelector
    assert selector_of(CATSelection(), GRID).waited is None
    assert type(selector_of(CATSelection(choose_by="expected error"), GRID)) is ExpectedErrorSelector


@given(seed=st.integers(0, 99), rows=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_a_drift_that_all_tokens_share_is_found_whatever_was_known_of_it(seed: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    true, known = torch.randn(2, rows, 6, generator=generator)
    start = torch.randn(rows, 5, 6, generator=generator)
    waited = torch.randint(1, 7, (rows, 5), generator=generator).float()
    new = start + true.unsqueeze(1) * waited.unsqueeze(-1)
    found = drift_per_step(None, start, new, waited)
    torch.testing.assert_close(found, true)
    moved = start + known.unsqueeze(1) * (waited - 1).unsqueeze(-1)  # up to the step before
    torch.testing.assert_close(drift_per_step(known, moved, new, waited), true, atol=1e-4, rtol=1e-4)


def test_a_clean_latents_change_weighs_the_more_the_lower_the_noise() -> None:
    """It is one of the velocity over the noise level."""
    selector = ExpectedErrorSelector(CATSelection(0.5), (1, 4))
    first, second, third = torch.zeros(3, 1, 4, 1)
    second[:] = 1.0
    selector.observe(first, full=True, sigma=2.0)
    selector.observe(second, full=True, sigma=1.0)
    chosen = selector.choose()[0].tolist()
    others = [token for token in range(4) if token not in chosen]
    third[:] = 1.0
    third[0, chosen] = 1.5  # half the change of before, at a tenth of the noise: five times the pace
    selector.observe(third, full=False, sigma=0.1)
    assert selector.choose()[0].tolist() == chosen, "the root of five is more than twice the wait"
    selector.reset()
    selector.observe(first, full=True, sigma=2.0)
    selector.observe(second, full=True, sigma=1.0)
    assert selector.choose()[0].tolist() == chosen
    selector.observe(third, full=False, sigma=1.0)
    assert selector.choose()[0].tolist() == others
