"""What stands for tokens that are left out, and what they get back once they are computed again."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atedm_core.dit.holding import MOST_REPAID, HeldLatent
from atedm_core.forecast_schedule import UNKNOWN_SHARE, StepShare, step_shares

SHAPE = (2, 4, 1, 3, 5)  # a video's, one frame


def on_a_line(place: float) -> torch.Tensor:
    """Predictions that move along lines, every number along its own."""
    start, slope = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return start + place * slope


def share(weight: float) -> StepShare:
    return StepShare(weight, True)


def everywhere(value: bool) -> torch.Tensor:
    return torch.full((2, 1, 1, 3, 5), value)


def test_a_token_that_is_left_out_stays_where_it_was_and_one_that_is_computed_goes_on() -> None:
    held = HeldLatent.of(on_a_line(0.0), 0.0)
    computed = everywhere(False)
    computed[0, ..., :2] = True
    given = held.settle(on_a_line(1.0), computed, 1.0, share(0.5))
    where = computed.expand_as(given)
    assert torch.equal(given[where], on_a_line(1.0)[where])
    assert torch.equal(given[~where], on_a_line(0.0)[~where])
    assert torch.equal(held.clean, given)


@given(waits=st.integers(1, 2), weights=st.lists(st.floats(0.1, 2.0), min_size=3, max_size=3))
@settings(max_examples=40, deadline=None)
def test_what_moves_along_a_line_ends_as_if_it_had_never_been_left_out(waits: int, weights: list[float]) -> None:
    """The weighted sum of what was given is that of the truth, which is what a sampler makes of predictions."""
    weights[-1] = 2.0  # so that no more is owed than can be repaid at once
    held = HeldLatent.of(on_a_line(0.0), 0.0)
    total = expected = torch.zeros(SHAPE, dtype=torch.float64)
    for step in range(1, waits + 2):
        weight = weights[-1] if step == waits + 1 else weights[step - 1]
        given = held.settle(on_a_line(step), everywhere(step == waits + 1), step, share(weight))
        total, expected = total + weight * given, expected + weight * on_a_line(step)
    assert torch.allclose(total, expected, atol=1e-5)
    assert torch.equal(held.clean, on_a_line(waits + 1)), "what is held from here on is what was predicted"


def test_nothing_is_owed_by_a_token_that_was_computed_in_the_step_before() -> None:
    held = HeldLatent.of(on_a_line(0.0), 0.0)
    for step in (1, 2, 3):
        assert torch.equal(held.settle(on_a_line(step), None, step, share(0.3)), on_a_line(step))


def test_no_token_is_thrown_further_than_it_had_come() -> None:
    held = HeldLatent.of(on_a_line(0.0), 0.0)
    for step in range(1, 30):
        held.settle(on_a_line(step), everywhere(False), step, share(1.0))
    given = held.settle(on_a_line(30), None, 30.0, share(1.0))
    assert torch.allclose(given, on_a_line(30) + MOST_REPAID * (on_a_line(30) - on_a_line(0)))


@pytest.mark.parametrize(("place", "step"), [(2.0, UNKNOWN_SHARE), (1.0, share(0.5)), (0.5, share(0.5))])
def test_nothing_is_repaid_where_it_cannot_be_weighed(place: float, step: StepShare) -> None:
    """In steps whose predictions do not add up, and where the noise level did not fall."""
    held = HeldLatent.of(on_a_line(1.0), 1.0)
    held.settle(on_a_line(1.5), everywhere(False), 1.5, share(0.5))
    truth = on_a_line(7.0)
    if place < 2.0:
        held = HeldLatent(held.clean, held.place, held.owed.abs() + 1.0)
    assert torch.equal(held.settle(truth, None, place, step), truth)
    assert not held.owed.any()


def test_rows_part_and_meet_again() -> None:
    held = HeldLatent.of(on_a_line(0.0), 0.0)
    held.settle(on_a_line(1.0), everywhere(False), 1.0, share(0.7))
    one, other = held.split(2)
    back = HeldLatent.join([one, other])
    one.clean += 1.0
    for a, b in ((back.clean, held.clean), (back.place, held.place), (back.owed, held.owed)):
        assert torch.equal(a, b)


def test_half_precision_stays_half_precision() -> None:
    held = HeldLatent.of(on_a_line(0.0).half(), 0.0)
    held.settle(on_a_line(1.0).half(), everywhere(False), 1.0, share(0.7))
    assert held.settle(on_a_line(2.0).half(), None, 2.0, share(0.7)).dtype == held.clean.dtype == torch.float16
    assert held.owed.dtype == torch.float32


def test_a_run_of_euler_repays_by_the_weights_of_its_steps() -> None:
    """Half the tokens in turn, along lines in half the log-SNR: the latent is nearer than without by far."""
    sigmas = [0.9 - step / 15 for step in range(12)]
    places = [torch.logit(1 - torch.tensor(s, dtype=torch.float64)).clamp(-5.3, 9.2).item() for s in sigmas]
    shares = step_shares(sigmas, stochastic=False)

    def run(repays: bool | None) -> torch.Tensor:
        latent, held = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64), None
        for step, (sigma, after) in enumerate(pairwise(sigmas)):
            clean = on_a_line(places[step])
            if repays is not None:
                if held is None:
                    held = HeldLatent.of(clean, places[step])
                computed = everywhere(step < 2 or step == 10)
                computed.view(2, -1)[:, step % 2 :: 2] = True
                clean = held.settle(clean, computed, places[step], shares[step] if repays else UNKNOWN_SHARE)
            latent = latent + (after - sigma) * (latent - clean) / sigma
        return latent

    truth, repaid, kept = run(None), run(True), run(False)
    assert (repaid - truth).norm() < 0.7 * (kept - truth).norm()
