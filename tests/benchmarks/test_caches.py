"""The caches that the lab compares with do what their formulas say."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import random_models
from benchmarks.lab.drawing import inputs_noted
from benchmarks.lab.unet.caches import (
    TAPE_KEY,
    Chebyshev,
    FixedInterval,
    GrowingWindow,
    Taylor,
    dbcache,
    share_to_gate,
    spectrum,
    taylorseer,
)
from benchmarks.lab.unet.flops import Tape

STEPS = 12


def curve(*coefficients: float):
    return lambda step: torch.tensor([[sum(c * step**i for i, c in enumerate(coefficients))]], dtype=torch.float64)


def seen(forecaster, feature, steps):
    for step in steps:
        forecaster.observe(step, feature(step))
    return forecaster


def test_a_taylor_expansion_of_the_first_order_goes_on_along_a_line():
    line = curve(3.0, -2.0)
    assert seen(Taylor(1), line, (0, 1, 4)).expect(6) == pytest.approx(line(6))


def test_of_the_second_order_backward_differences_stand_for_derivatives():
    square, interval, ahead = curve(0.0, 0.0, 1.0), 3, 2
    found = float(seen(Taylor(2), square, (0, 3, 6)).expect(6 + ahead))
    first, second = 36.0 - 9.0, 36.0 - 2 * 9.0 + 0.0
    assert found == pytest.approx(36 + first / interval * ahead + second / (2 * interval**2) * ahead**2)
    # what is missing is the derivative's own error, half an interval of the second difference
    assert float(square(8)) - found == pytest.approx(ahead / 2 * second / interval)


def test_order_0_holds():
    assert seen(Taylor(0), curve(0.0, 1.0), (0, 1, 2)).expect(9) == pytest.approx(torch.tensor([[2.0]]).double())


def test_an_unfettered_chebyshev_fit_finds_a_polynomial_of_its_degree():
    quartic = curve(1.0, -2.0, 0.5, 0.1, -0.02)
    found = seen(Chebyshev(STEPS, ridge=1e-12, blend=1.0), quartic, range(5)).expect(8)
    assert float(found) == pytest.approx(float(quartic(8)), rel=1e-4)


def test_its_coefficients_are_those_of_ridge_regression():
    wave = lambda step: torch.tensor([[math.sin(step), math.cos(step / 2)]], dtype=torch.float64)  # noqa: E731
    steps = (0, 1, 2, 3, 4, 6, 8)
    found = seen(Chebyshev(STEPS, ridge=0.1, blend=1.0), wave, steps).expect(9)

    def row(step):  # T_0 to T_4 by their recurrence
        t = 2 * step / (STEPS - 1) - 1
        values = [1.0, t]
        for _ in range(3):
            values.append(2 * t * values[-1] - values[-2])
        return values

    known = torch.tensor([row(step) for step in steps], dtype=torch.float64)
    # ridge regression is least squares with a row for each coefficient more
    rows = torch.cat([known, math.sqrt(0.1) * torch.eye(5, dtype=torch.float64)])
    targets = torch.cat([torch.cat([wave(step) for step in steps]), torch.zeros(5, 2, dtype=torch.float64)])
    fitted = torch.linalg.lstsq(rows, targets).solution
    assert found == pytest.approx(torch.tensor([row(9)], dtype=torch.float64) @ fitted)


def test_half_of_a_blend_is_the_line_through_the_last_two():
    bend = curve(0.0, 0.0, 1.0)
    whole, half, line = (
        seen(Chebyshev(STEPS, blend=blend), bend, (0, 1, 2, 3, 4)).expect(6) for blend in (1.0, 0.5, 0.0)
    )
    assert float(line) == pytest.approx(16 + 2 * (16 - 9))
    assert half == pytest.approx((whole + line) / 2)


def test_intervals_are_fixed_and_windows_grow():
    fixed, growing = FixedInterval(3), GrowingWindow(0.75)
    assert [step for step in range(12) if fixed.real(step)] == [0, 1, 2, 5, 8, 11]
    # windows of 2, 2 (of 2.75), 3 (of 3.5), 4 (of 4.25)
    assert [step for step in range(18) if growing.real(step)] == [0, 1, 2, 3, 4, 6, 8, 11, 15]
    same = GrowingWindow(0.0)
    assert [step for step in range(10) if same.real(step)] == [0, 1, 2, 3, 4, 6, 8]


@pytest.fixture(scope="module")
def model(comfyui: None):
    return random_models.KINDS["sdxl"].build()


def sample(model, tape: Tape, unet) -> torch.Tensor:
    import comfy.sample
    import comfy.samplers

    kind = random_models.KINDS["sdxl"]
    generator = torch.Generator().manual_seed(0)

    def prompt():
        extra = {"pooled_output": torch.randn(1, kind.pooled, generator=generator)}
        return [[torch.randn(1, 4, kind.context, generator=generator), extra]]

    model = model.clone()
    model.model_options.setdefault("transformer_options", {})[TAPE_KEY] = tape
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    sigmas = comfy.samplers.KSampler(model, STEPS, torch.device("cpu"), "euler", "normal").sigmas
    with torch.inference_mode(), inputs_noted(unet.time_embed, lambda given: tape.calls.append(given.shape[0])):
        return comfy.sample.sample_custom(
            model, noise, 4.0, comfy.samplers.sampler_object("euler"), sigmas, prompt(), prompt(),
            torch.zeros_like(noise), disable_pbar=True, seed=0,
        )  # fmt: skip


def run(model, make=None):
    tape = Tape()
    unet = model.model.diffusion_model
    return sample(model if make is None else make(model), tape, unet), tape


@pytest.mark.parametrize(
    ("make", "whole"),
    [(lambda model: taylorseer(model, 3, 1), 6), (lambda model: spectrum(model, 0.75), 8)],
    ids=["TaylorSeer", "Spectrum"],
)
def test_forecasts_replace_passes_and_stay_near_a_smooth_model(model, make, whole):
    full, every = run(model)
    found, tape = run(model, make)
    assert sum(every.calls) == 2 * STEPS
    assert sum(tape.calls) == 2 * whole
    assert not torch.equal(found, full)
    assert (found - full).norm() < 0.5 * full.norm()


def test_a_whole_interval_of_1_is_the_full_run_to_the_bit(model):
    assert torch.equal(run(model, lambda one: taylorseer(one, 1, 2))[0], run(model)[0])


def test_the_gate_ends_passes_behind_the_first_block_and_never_before_the_third_step(model):
    full, _ = run(model)
    closed, tape = run(model, lambda one: dbcache(one, 0.0))
    assert torch.equal(closed, full)
    assert (sum(tape.calls), sum(tape.begun)) == (2 * STEPS, 0)
    found, tape = run(model, lambda one: dbcache(one, 1e9))
    assert (sum(tape.calls), sum(tape.begun)) == (2 * 3, 2 * (STEPS - 3))
    assert not torch.equal(found, full)


def test_what_a_pass_to_the_gate_costs_is_counted_on_the_layers_of_sdxl(comfyui: None):
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        unet = UNetModel(
            image_size=32, in_channels=4, model_channels=320, out_channels=4, num_res_blocks=[2, 2, 2],
            channel_mult=(1, 2, 4), num_head_channels=64, use_spatial_transformer=True, context_dim=2048,
            transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10,
            transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], num_classes="sequential", adm_in_channels=2816,
            use_linear_in_transformer=True, dtype=torch.float32, device="meta",
            operations=comfy.ops.disable_weight_init,
        )  # fmt: skip
        given = torch.zeros(1, 4, 128, 128), torch.zeros(1), torch.zeros(1, 77, 2048), torch.zeros(1, 2816)
        reached = []
        block = next(layer for layer in unet.modules() if hasattr(layer, "transformer_blocks"))
        counter = FlopCounterMode(display=False)
        block.register_forward_hook(lambda *_: reached.append(counter.get_total_flops()))
        with counter:
            unet(given[0], given[1], given[2], given[3])
    assert share_to_gate() == pytest.approx(reached[0] / counter.get_total_flops(), rel=0.02)
