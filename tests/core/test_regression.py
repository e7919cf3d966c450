"""Filling tokens in by a function that is fitted to the kept ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import random_tokens, smooth_states

from atedm_core import TokenSubset, recover, stand_in_by_cosine
from atedm_core.unet import regression
from atedm_core.unet.regression import MOST_ROWS, RIDGE, fitted_rows, regress_changes

N = 48


def subset_of(hidden: torch.Tensor, keep: int, seed: int = 3) -> TokenSubset:
    scores = random_tokens(hidden.shape[:2], seed)
    return stand_in_by_cosine(TokenSubset.top(scores, keep), hidden)


def directions(hidden: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(hidden, dim=-1)


def filled_in(subset: TokenSubset, before: torch.Tensor, change: torch.Tensor, merged: bool = True) -> torch.Tensor:
    return regress_changes(subset, before, subset.mean(before) if merged else subset.gather(before), change)


def plain_regression(subset: TokenSubset, before: torch.Tensor, change: torch.Tensor, merged: bool) -> torch.Tensor:
    """The definition in float64: weighted ridge regression in its primal form, `C` by `C`, no further than was seen."""
    before, change = before.double(), change.double()
    out = torch.empty_like(before)
    for sample in range(len(before)):
        source = subset.source_index[sample]
        unit = directions(before[sample])
        groups = [before[sample][source == slot] for slot in range(subset.kept)]
        own = before[sample][subset.keep_index[sample]]
        went_in = torch.stack(
            [directions(group.mean(0)) if merged else directions(kept) for group, kept in zip(groups, own, strict=True)]
        )
        weight = torch.tensor([float(len(group)) for group in groups], dtype=torch.float64).unsqueeze(1)
        rows = went_in - (went_in * weight).sum(0) / weight.sum()
        wanted = change[sample] - (change[sample] * weight).sum(0) / weight.sum()
        gram = rows.T @ (weight * rows)
        ridge = RIDGE * max(gram.trace() / subset.kept, 1e-6) * torch.eye(len(gram), dtype=torch.float64)
        fitted = torch.linalg.solve(gram + ridge, rows.T @ (weight * wanted))
        apart = unit - went_in[source]
        within = (rows.norm(dim=1).max() / apart.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
        out[sample] = before[sample] + change[sample][source] + (within * apart) @ fitted
    return out


@pytest.mark.parametrize("merged", [True, False])
@settings(max_examples=20, deadline=None)
@given(keep=st.integers(1, N), channels=st.integers(1, 70), seed=st.integers(0, 99))
def test_it_is_weighted_ridge_regression_on_directions(merged, keep, channels, seed):
    before, change = random_tokens((2, N, channels), seed), random_tokens((2, keep, channels), seed + 1)
    subset = subset_of(before, keep)
    found = filled_in(subset, before, change, merged)
    torch.testing.assert_close(found.double(), plain_regression(subset, before, change, merged), rtol=1e-3, atol=2e-3)


def test_a_change_that_is_a_function_of_the_direction_comes_back_nearer_than_by_the_stand_ins_change():
    before = smooth_states((12, 16), 40, 1, samples=2)
    subset = subset_of(before, 60)
    after = before + directions(before) @ random_tokens((40, 40), 5, 3.0)

    def error(how):
        entered = subset.mean(before)
        return (recover(how, subset, before, entered + subset.mean(after - before), entered=entered) - after).norm()

    assert error("regression") < 0.25 * error("update")


def test_a_change_that_all_tokens_share_is_recovered_exactly():
    before = random_tokens((2, N, 6), 1)
    subset = subset_of(before, 11)
    found = filled_in(subset, before, torch.full((2, 11, 6), 2.0))
    torch.testing.assert_close(found, before + 2.0)


@pytest.mark.parametrize("keep", [1, 2, 11])
def test_tokens_all_alike_take_the_change_and_nothing_else(keep):
    before, change = torch.ones(2, N, 6), random_tokens((2, keep, 6), 2)
    subset = subset_of(before, keep)
    torch.testing.assert_close(filled_in(subset, before, change), before + subset.expand(change), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_near_as_its_rounding(dtype):
    before, change = smooth_states((12, 16), 40, 1).to(dtype), random_tokens((1, 60, 40), 2).to(dtype)
    subset = subset_of(before, 60)
    found = filled_in(subset, before, change)
    assert found.dtype == dtype
    expected = plain_regression(subset, before, change, merged=True)
    assert (found.double() - expected).norm() < 4 * torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_large_changes_of_tokens_that_hardly_differ_stay_finite(dtype):
    before = (1.0 + 1e-3 * random_tokens((1, N, 40), 1)).to(dtype)
    change = 2e4 * random_tokens((1, 5, 40), 2).sign().to(dtype)
    assert filled_in(subset_of(before, 5), before, change).isfinite().all()


def test_zero_states_stay_finite():
    before = torch.zeros(1, N, 6)
    assert filled_in(subset_of(before, 5), before, torch.zeros(1, 5, 6)).isfinite().all()


def test_a_sample_is_filled_in_alike_beside_any_others():
    before, change = random_tokens((4, N, 64), 1), random_tokens((4, 11, 64), 2)
    together = filled_in(subset_of(before, 11), before, change)
    for sample in range(4):
        part = slice(sample, sample + 1)
        subset = TokenSubset(
            *[one[part] for one in (subset_of(before, 11).keep_index, subset_of(before, 11).drop_index)]
        )
        subset = stand_in_by_cosine(subset, before[part])
        assert torch.equal(filled_in(subset, before[part], change[part]), together[part])


@pytest.mark.parametrize("kept", [1, MOST_ROWS - 1, MOST_ROWS, MOST_ROWS + 1, 600, 4096])
def test_the_function_is_fitted_to_more_than_half_of_the_most_tokens_and_to_no_more(kept, monkeypatch):
    fitted: list[int] = []
    plain = regression._by_cholesky
    monkeypatch.setattr(regression, "_by_cholesky", lambda *given: fitted.append(given[0].shape[1]) or plain(*given))
    before = random_tokens((1, kept + 1, 3), 1)
    filled_in(subset_of(before, kept), before, random_tokens((1, kept, 3), 2))
    assert fitted_rows(kept) / 2 < fitted[0] <= fitted_rows(kept) <= MOST_ROWS


def test_the_function_is_fitted_to_every_second_of_twice_as_many_tokens(monkeypatch):
    monkeypatch.setattr(regression, "MOST_ROWS", 30)
    before = smooth_states((12, 16), 20, 1)
    subset, change = subset_of(before, 60), random_tokens((1, 60, 20), 2)
    other = change.clone()
    other[:, 1::2] += 1.0
    differs = filled_in(subset, before, other) - filled_in(subset, before, change)
    torch.testing.assert_close(differs, subset.expand(other - change))


def test_more_kept_tokens_than_rows_give_the_function_of_some(monkeypatch):
    before = smooth_states((12, 16), 20, 1)
    subset = subset_of(before, 60)
    change = random_tokens((1, 60, 20), 2)
    whole = filled_in(subset, before, change)
    monkeypatch.setattr(regression, "MOST_ROWS", 30)
    few = filled_in(subset, before, change)
    assert not torch.equal(whole, few)
    # Groups of one take their change as it is, whatever was fitted.
    alone = (subset.members == 1).squeeze(0)
    kept = subset.gather(few)[0][alone]
    torch.testing.assert_close(kept, subset.gather(before)[0][alone] + change[0][alone])


def test_a_device_without_cholesky_has_the_processor_solve(monkeypatch):
    matrix, right = torch.eye(3).unsqueeze(0) * 4.0, random_tokens((1, 3, 2), 1)
    brought: list[str] = []

    def elsewhere(tensor):
        def cpu():
            brought.append("to the processor")
            return tensor

        return SimpleNamespace(device=SimpleNamespace(type="elsewhere"), cpu=cpu)

    plain = regression._by_cholesky

    def by_cholesky(matrix, right):
        if isinstance(matrix, SimpleNamespace):
            raise NotImplementedError("no kernel")
        solved = plain(matrix, right)
        return SimpleNamespace(to=lambda device: (solved, device.type))

    monkeypatch.setattr(regression, "_by_cholesky", by_cholesky)
    found, where = regression._solve(elsewhere(matrix), elsewhere(right))
    torch.testing.assert_close(found, right / 4.0)
    assert (len(brought), where) == (2, "elsewhere")


def test_what_a_processor_cannot_solve_is_raised():
    with pytest.raises(RuntimeError):
        regression._solve(torch.eye(3).unsqueeze(0), torch.zeros(1, 4, 2))


@pytest.mark.parametrize(("keep", "merged"), [(11, True), (11, False), (40, True)])
def test_a_gradient_goes_through_it(keep, merged):
    before = random_tokens((1, N, 6), 1).requires_grad_()
    change = random_tokens((1, keep, 6), 2).requires_grad_()
    subset = subset_of(before.detach(), keep)
    if keep == 40:
        assert (subset.members == 1).any(), "such a token is nowhere from what went through the layers for it"
    filled_in(subset, before, change, merged).sum().backward()
    assert before.grad.isfinite().all()
    assert change.grad.isfinite().all()


def test_dropped_tokens_far_from_all_that_was_kept_are_not_thrown_further():
    before = random_tokens((1, N, 16), 1)
    before[:, :11] = 1.0 + 1e-2 * random_tokens((1, 11, 16), 3)
    subset = stand_in_by_cosine(TokenSubset(torch.arange(11).unsqueeze(0), torch.arange(11, N).unsqueeze(0)), before)
    change = random_tokens((1, 11, 16), 2)
    found = filled_in(subset, before, change, merged=False) - before
    assert found.abs().max() < 10 * change.abs().max()
