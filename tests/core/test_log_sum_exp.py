from __future__ import annotations

from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import logits, random_tokens

from atedm_core.log_sum_exp import append_bias, attention_with_log_sum_exp, chunked_log_sum_exp, log_sum_exp

fused = import_module("atedm_core.log_sum_exp")

cpu_flash, cpu_attention = fused._cpu_flash, fused._cpu_attention

FORMS = {"fused": log_sum_exp, "chunked": chunked_log_sum_exp}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 1e-4, torch.bfloat16: 1e-3}


def problem(asking: int, answering: int, head_size: int, dtype: torch.dtype, gain: float = 1.0):
    q = random_tokens((2, 3, asking, head_size), 1, gain).to(dtype)
    k = random_tokens((2, 3, answering, head_size), 2, gain).to(dtype)
    return q, k, random_tokens((2, 3, answering), 3, 5.0) - 8.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head_size", [1, 7, 40, 64, 80, 128, 160, 512])
def test_equals_the_dense_form_with_and_without_bias(form, dtype, head_size):
    q, k, bias = problem(33, 77, head_size, dtype)
    for extra in (None, bias):
        expected = (logits(q, k) + (0 if extra is None else extra.double().unsqueeze(-2))).logsumexp(-1)
        found = FORMS[form](q, k, extra)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE[dtype] * 10)


@settings(max_examples=40, deadline=None)
@given(
    asking=st.integers(1, 40),
    answering=st.integers(1, 40),
    head_size=st.integers(1, 96),
    gain=st.floats(0.0, 20.0),
    chunk=st.integers(1, 500),
)
def test_fused_and_chunked_agree_on_any_shape(asking, answering, head_size, gain, chunk):
    q, k, bias = problem(asking, answering, head_size, torch.float32, gain)
    before = fused.CHUNK_LOGITS
    try:
        fused.CHUNK_LOGITS = chunk
        chunked = chunked_log_sum_exp(q, k, bias)
    finally:
        fused.CHUNK_LOGITS = before
    torch.testing.assert_close(log_sum_exp(q, k, bias), chunked, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bias_in_half_precision_keeps_about_twice_the_mantissa(dtype):
    q, k, _ = problem(5, 300, 64, dtype)
    bias = random_tokens((2, 3, 300), 4, 3.0) - 20.0
    queries, keys = append_bias(q, k, bias, 64**-0.5)
    carried = (queries[..., 64:].double() @ keys[..., 64:].double().transpose(-1, -2) / 8)[:, :, 0]
    once_rounded = bias.to(dtype).double()
    assert (carried - bias).abs().max() < 1e-3
    assert (carried - bias).abs().max() < (once_rounded - bias).abs().max() / 20


def test_a_device_without_a_fused_kernel_gets_the_chunked_form(monkeypatch):
    fused._fused_kernel.cache_clear()
    monkeypatch.setattr(fused, "_candidates", lambda device_type, dtype: [])
    q, k, bias = problem(9, 11, 24, torch.float32)
    try:
        assert torch.equal(log_sum_exp(q, k, bias), chunked_log_sum_exp(q, k, bias))
    finally:
        fused._fused_kernel.cache_clear()


def test_a_kernel_that_refuses_or_disagrees_is_passed_over(monkeypatch):
    def refuses(q, k, scale):
        raise RuntimeError("no kernel found")

    def in_base_two(q, k, scale):
        return fused._cpu_flash(q, k, scale) * 1.4427

    fused._fused_kernel.cache_clear()
    monkeypatch.setattr(fused, "_candidates", lambda *_: [refuses, in_base_two, fused._cpu_flash])
    try:
        assert fused._fused_kernel(torch.device("cpu"), torch.float32, 16) is fused._cpu_flash
    finally:
        fused._fused_kernel.cache_clear()


def test_memory_too_short_to_try_a_kernel_is_not_held_against_it(monkeypatch):
    short = True

    def needs_memory(kernel):
        def run(*args):
            if short:
                raise torch.OutOfMemoryError("no memory left")
            return kernel(*args)

        return run

    for find in (fused._fused_kernel, fused._attention_kernel):
        find.cache_clear()
    monkeypatch.setattr(fused, "_candidates", lambda *_: [needs_memory(cpu_flash)])
    monkeypatch.setattr(fused, "_cpu_attention", needs_memory(cpu_attention))
    q, k, bias = problem(9, 11, 24, torch.float32)
    try:
        assert torch.equal(log_sum_exp(q, k, bias), chunked_log_sum_exp(q, k, bias))
        assert attention_with_log_sum_exp(q, k, k) is None
        short = False
        assert fused._fused_kernel(q.device, q.dtype, 25) is not None
        assert attention_with_log_sum_exp(q, k, k) is not None
    finally:
        for find in (fused._fused_kernel, fused._attention_kernel):
            find.cache_clear()


def test_the_cpu_has_a_fused_kernel():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert fused._fused_kernel(torch.device("cpu"), dtype, 66) is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_with_its_log_sum_exp_is_pytorchs_own_attention(dtype):
    q, k, _ = problem(33, 77, 64, dtype)
    out, log_sum = attention_with_log_sum_exp(q, k, k)
    assert torch.equal(out, torch.nn.functional.scaled_dot_product_attention(q, k, k))
    assert torch.equal(log_sum, log_sum_exp(q, k))


def test_trying_kernels_leaves_the_random_generator_alone():
    fused._fused_kernel.cache_clear()
    before = torch.random.get_rng_state()
    fused._fused_kernel(torch.device("cpu"), torch.float32, 64)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("q", "k", "bias", "message"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 5), None, r"\(1, 2, 3, 4\).*\(1, 2, 3, 5\)"),
        ((1, 2, 3, 4), (1, 1, 3, 4), None, "do not fit together"),
        ((2, 3, 4), (2, 3, 4), None, "do not fit together"),
        ((1, 2, 3, 4), (1, 2, 0, 4), None, "one key or more"),
        ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 3), r"bias \(1, 2, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(q, k, bias, message):
    with pytest.raises(ValueError, match=message):
        log_sum_exp(torch.zeros(q), torch.zeros(k), None if bias is None else torch.zeros(bias))
