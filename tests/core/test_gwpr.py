from __future__ import annotations

from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense_cross_gwpr, dense_gwpr, random_tokens, relative_error

from atedm_core import combine_heads, cross_gwpr, gwpr

ITERATIONS = [1, 2, 5, 10, 20]


def tokens(n: int, head_size: int, gain: float = 1.0, heads: int = 2, samples: int = 2):
    shape = (samples, heads, n, head_size)
    return random_tokens(shape, 1, gain), random_tokens(shape, 2, gain)


@pytest.mark.parametrize("iterations", ITERATIONS)
@pytest.mark.parametrize("n", [1, 2, 7, 77, 1023])
@pytest.mark.parametrize("head_size", [40, 64, 80, 160, 17])
def test_equals_power_iteration_on_the_dense_map(n, head_size, iterations):
    q, k = tokens(n, head_size)
    assert relative_error(gwpr(q, k, iterations=iterations), dense_gwpr(q, k, iterations)) < 1e-4


def test_equals_the_dense_map_at_the_largest_grid():
    q, k = tokens(4096, 64, heads=1, samples=1)
    assert relative_error(gwpr(q, k, iterations=3), dense_gwpr(q, k, 3)) < 1e-4


@pytest.mark.parametrize("iterations", ITERATIONS)
def test_logits_in_the_hundreds_cost_no_more_than_a_thousandth(iterations):
    q, k = tokens(77, 64, gain=10.0)
    assert (q @ k.transpose(-1, -2) / 8).abs().max() > 300
    assert relative_error(gwpr(q, k, iterations=iterations), dense_gwpr(q, k, iterations)) < 1e-3


@pytest.mark.parametrize("gain", [0.0, 1e-20, 1e-3, 30.0, 100.0])
def test_logits_of_any_size_give_finite_scores_that_sum_to_one(gain):
    q, k = tokens(77, 64, gain=gain)
    for scores in (gwpr(q, k, iterations=20), cross_gwpr(q, k[:, :, :9], iterations=20)):
        assert scores.isfinite().all()
        torch.testing.assert_close(scores.sum(-1), torch.ones(2, 2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("iterations", [1, 5, 20])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (64, 7), (7, 64), (1024, 77)])
def test_cross_attention_equals_the_dense_bipartite_form(m, n, iterations):
    q, k = random_tokens((2, 3, m, 64), 1), random_tokens((2, 3, n, 64), 2)
    assert relative_error(cross_gwpr(q, k, iterations=iterations), dense_cross_gwpr(q, k, iterations)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [77, 1023, 4096])
@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_half_precision_keeps_the_best_tokens(dtype, n, gain):
    q, k = (t.to(dtype) for t in tokens(n, 64, gain, heads=3 if n < 4096 else 1, samples=1))
    for iterations in (1, 10) if n < 4096 else (1,):  # half precision is slow on many CPUs
        keep = round(0.37 * n)
        found = combine_heads(gwpr(q, k, iterations=iterations))[0].topk(keep).indices
        expected = combine_heads(dense_gwpr(q, k, iterations))[0].topk(keep).indices
        overlap = len(set(found.tolist()) & set(expected.tolist())) / keep
        assert overlap >= (0.99 if keep >= 100 else 1 - 1.5 / keep)


def test_a_warm_start_goes_on_where_the_scores_stopped():
    q, k = tokens(60, 32)
    halfway = gwpr(q, k, iterations=3)
    torch.testing.assert_close(gwpr(q, k, start=halfway, iterations=2), gwpr(q, k, iterations=5), rtol=1e-5, atol=0)
    torch.testing.assert_close(gwpr(q, k, start=halfway * 7), gwpr(q, k, start=halfway), rtol=1e-5, atol=0)


def test_a_warm_start_with_zeros_stays_finite():
    q, k = tokens(20, 16)
    start = torch.zeros(2, 2, 20)
    start[:, :, 3] = 1.0
    found = gwpr(q, k, start=start)
    assert relative_error(found, dense_gwpr(q, k, start=start)) < 1e-4


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 50), head_size=st.integers(1, 70), gain=st.floats(0, 8), iterations=st.integers(1, 20))
def test_any_shape_agrees_with_the_dense_map(n, head_size, gain, iterations):
    q, k = tokens(n, head_size, gain)
    assert relative_error(gwpr(q, k, iterations=iterations), dense_gwpr(q, k, iterations)) < 1e-3


def test_a_token_everybody_attends_to_ranks_first():
    q = torch.ones(1, 2, 30, 8)
    k = torch.zeros(1, 2, 30, 8)
    k[:, :, 11] = 3.0
    assert combine_heads(gwpr(q, k)).argmax() == 11


def test_a_sample_does_not_depend_on_its_neighbours():
    q, k = tokens(77, 64, samples=4)
    together, alone = gwpr(q, k, iterations=5), gwpr(q[2:3], k[2:3], iterations=5)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-5, atol=0)


def test_heads_are_combined_by_root_mean_square():
    per_head = random_tokens((2, 5, 9), 1).abs()
    torch.testing.assert_close(combine_heads(per_head), (per_head**2).mean(1) ** 0.5)


def test_bad_arguments_are_named():
    q, k = tokens(7, 8)
    with pytest.raises(ValueError, match="iterations is 0"):
        gwpr(q, k, iterations=0)
    with pytest.raises(ValueError, match="use cross_gwpr"):
        gwpr(q, k[:, :, :5])
    with pytest.raises(ValueError, match=r"start \(2, 2, 6\)"):
        gwpr(q, k, start=torch.ones(2, 2, 6))


def test_no_tensor_as_large_as_the_attention_map_is_ever_made(monkeypatch):
    """The largest tensor that ranking touches stays far below the map, in the fused and in the chunked form."""
    from torch.utils._python_dispatch import TorchDispatchMode

    fused = import_module("atedm_core.log_sum_exp")

    class Largest(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return out

    n, heads = 1024, 4
    q, k = tokens(n, 32, heads=heads, samples=1)
    for candidates in (fused._candidates, lambda *_: []):
        monkeypatch.setattr(fused, "_candidates", candidates)
        monkeypatch.setattr(fused, "CHUNK_LOGITS", 1 << 17)
        fused._fused_kernel.cache_clear()
        with Largest() as seen:
            gwpr(q, k)
        assert 0 < seen.elements < heads * n * n / 10
    fused._fused_kernel.cache_clear()
