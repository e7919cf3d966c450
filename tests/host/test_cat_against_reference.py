"""Whole runs under CAT Pruning against the same runs with every token carried through the model.

The first run notes which tokens each model call computed. The second, of the unpatched model, is told these sets: it
carries all tokens, and replaces keys, values and outputs of unselected ones by those they had. The samples must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cat_watching import SIZE, WARMUP, Watch, cat, dual_guider, guided_sample, watching
from in_process import InProcessHost
from plain_cat import PlainExecution
from sample_transformers import prompt, sample, shared
from watching import relative_error

from benchmarks.random_transformers import TRANSFORMERS

CLOSE = 1e-5  # of samples, after eight steps of rounding
STEPS = 8
HOW = {"width": SIZE, "height": SIZE}

Run = Callable[[Any], torch.Tensor]


def carrying_all(model: Any, calls: Watch, tokens: int, holds_clean: bool) -> Any:
    """The model, with every call that CAT Pruning took part in run as its description has it, one after the other."""
    waiting = iter(calls)
    clone = model.clone()
    plain = PlainExecution(clone, tokens, holds_clean)
    beside = {"foreign": 0}

    def run(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
        inputs = {"x": given["input"], "t": given["timestep"], **given["c"]}
        if inputs["transformer_options"].get("patches_replace"):
            beside["foreign"] += 1
            return apply_model(inputs.pop("x"), inputs.pop("t"), **inputs)
        call = next(waiting)
        return plain.call(inputs, call.selected, call.waited, call.place, call.share, call.opened)

    clone.set_model_unet_function_wrapper(run)
    clone.left_over = lambda: len(list(waiting))
    return clone


def both(host: InProcessHost, kind: str, run: Run, *, tokens: int, **inputs: Any) -> Watch:
    """Run pruned and carrying all tokens; the samples must agree, and pruning must have made a difference."""
    model = shared(kind)
    with pytest.MonkeyPatch.context() as patch:
        # what is batched in a call must not depend on what else the machine is doing
        patch.setattr(model.model, "memory_required", lambda *args, **kwargs: 0)
        with watching(host) as calls:
            found = run(cat(host, model, **inputs))
        assert calls.pruned()
        reference = carrying_all(model, calls, tokens, inputs.get("choose_by") != "published")
        expected = run(reference)
        plain = run(model)
    assert reference.left_over() == 0, "the two runs asked the model equally often"
    assert relative_error(found, expected) < CLOSE
    assert relative_error(found, plain) > 100 * CLOSE, "nothing was left out, and nothing was tested"
    return calls


def tokens_of(kind: str, width: int = SIZE, height: int = SIZE) -> int:
    inner = shared(kind).model.diffusion_model
    side = 8 * next(getattr(inner, name) for name in ("patch_size", "patch_spatial", "patch") if hasattr(inner, name))
    return -(-width // side) * -(-height // side)


EVERY = list(TRANSFORMERS)
SAMPLERS = [
    "heun",
    "dpm_2",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "euler_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_3m_sde",
    "sa_solver_pece",
    "lcm",
]


@pytest.mark.parametrize("choose_by", ["expected error", "published"])
@pytest.mark.parametrize("kind", EVERY)
def test_every_family(host: InProcessHost, kind: str, choose_by: str) -> None:
    how = {"refresh_interval": 4, "choose_by": choose_by}
    calls = both(host, kind, lambda model: sample(model, kind, **HOW), tokens=tokens_of(kind), **how)
    assert all((call.waited is None) == (choose_by == "published") for call in calls.pruned())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_with_several_calls_a_step_or_noise_of_their_own(host: InProcessHost, sampler: str) -> None:
    both(host, "sd3", lambda model: sample(model, "sd3", sampler=sampler, **HOW), tokens=17 * 17)


@pytest.mark.parametrize("kind", ["sd3", "pixart_sigma", "auraflow"])
def test_conditions_of_unequal_length(host: InProcessHost, kind: str) -> None:
    """Two calls an evaluation, the positive one first."""
    how = {"positive": prompt(kind, 1, tokens=12), "negative": prompt(kind, 2, tokens=7), **HOW}
    calls = both(host, kind, lambda model: sample(model, kind, **how), tokens=tokens_of(kind))
    assert all(len(call.uuids) == 1 for call in calls)


@pytest.mark.parametrize("kind", ["sd3", "pixart_sigma"])
def test_a_batch_of_different_pictures(host: InProcessHost, kind: str) -> None:
    calls = both(host, kind, lambda model: sample(model, kind, batch=3, **HOW), tokens=tokens_of(kind))
    for call in calls.pruned():
        sets = call.selected.unflatten(0, (2, 3))
        assert torch.equal(sets[0], sets[1]), "a picture's conditions share its set"
        assert not torch.equal(sets[0, 0], sets[0, 1])


SIZES = [(280, 408), (424, 280)]
WHOLE = ("sd3", "sd35_medium", "flux", "auraflow", "qwen_image", "z_image", "anima", "krea2")
ODD = [(kind, size) for kind in WHOLE for size in SIZES]


# the host's PixArt takes whole patches only
@pytest.mark.parametrize(("kind", "size"), [*ODD, ("pixart_sigma", (288, 416)), ("pixart_sigma", (416, 288))])
def test_odd_and_oblong_sizes(host: InProcessHost, kind: str, size: tuple[int, int]) -> None:
    """Latents of 35 x 51 pixels and the like: the last patch of a row is half outside."""
    width, height = size
    how = {"width": width, "height": height}
    both(host, kind, lambda model: sample(model, kind, **how), tokens=tokens_of(kind, *size))


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_with_and_without_guidance_from_a_picture(host: InProcessHost, cfg: float) -> None:
    start = {"samples": torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(3))}
    how = {"latent": start, "denoise": 0.6, "cfg": cfg}
    both(host, "sd3", lambda model: sample(model, "sd3", **how), tokens=17 * 17)


@pytest.mark.parametrize("differential", [False, True])
def test_inpainting(host: InProcessHost, differential: bool) -> None:
    """A ramp: with differential diffusion it opens token after token, and each is computed when it does."""
    ramp = torch.linspace(0, 1, SIZE // 8).expand(1, SIZE // 8, SIZE // 8)
    start = torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(3))

    def run(model: Any) -> torch.Tensor:
        model = host.call("DifferentialDiffusion", model=model)[0] if differential else model
        return sample(model, "sd3", latent={"samples": start, "noise_mask": ramp}, steps=12)

    both(host, "sd3", run, tokens=17 * 17)


def perp_neg(host: InProcessHost, model: Any) -> Any:
    conditions = {"positive": prompt("sd3", 1), "negative": prompt("sd3", 4), "empty_conditioning": prompt("sd3", 2)}
    return host.call("PerpNegGuider", model=model, cfg=3.0, neg_scale=1.0, **conditions)[0]


@pytest.mark.parametrize(
    ("name", "conditions"), [("dual regular", 3), ("dual nested", 3), ("perp-neg", 3), ("basic", 1)]
)
def test_guiders(host: InProcessHost, name: str, conditions: int) -> None:
    build = {
        "dual regular": lambda model: dual_guider(host, model),
        "dual nested": lambda model: dual_guider(host, model, "nested"),
        "perp-neg": lambda model: perp_neg(host, model),
        "basic": lambda model: host.call("BasicGuider", model=model, conditioning=prompt("sd3", 1))[0],
    }[name]
    calls = both(host, "sd3", lambda model: guided_sample(host, build(model)), tokens=17 * 17)
    assert len(calls.pruned()) == STEPS - WARMUP
    assert all(call.selected.shape[0] == conditions for call in calls.pruned())


def test_skip_layer_guidance(host: InProcessHost) -> None:
    """Its own calls, of the positive prompt with a layer left out, run in full and leave no trace in what is kept."""
    guidance = {"layers": "1", "scale": 3.0, "start_percent": 0.0, "end_percent": 1.0}

    def run(model: Any) -> torch.Tensor:
        return sample(host.call("SkipLayerGuidanceSD3", model=model, **guidance)[0], "sd3", **HOW)

    both(host, "sd3", run, tokens=17 * 17)


def test_a_controlnet(host: InProcessHost) -> None:
    """Its residuals are cut to the tokens that are carried."""
    import comfy.controlnet

    class Residuals(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy: Any, t: Any, cond: Any, batched_number: int, transformer_options: Any) -> Any:
            generator = torch.Generator().manual_seed(1)
            return {"output": [torch.randn(x_noisy.shape[0], 17 * 17, 128, generator=generator)] * 2}

        def copy(self) -> Any:
            return self

    control = Residuals()
    positive, negative = ([[one[0], {**one[1], "control": control}] for one in prompt("sd3", seed)] for seed in (1, 2))
    how = {"positive": positive, "negative": negative, **HOW}
    both(host, "sd3", lambda model: sample(model, "sd3", **how), tokens=17 * 17)


def test_a_prompt_that_sets_in_later_and_two_at_once(host: InProcessHost) -> None:
    early = host.call("ConditioningSetTimestepRange", conditioning=prompt("sd3", 1), start=0.0, end=0.6)[0]
    late = host.call("ConditioningSetTimestepRange", conditioning=prompt("sd3", 4), start=0.4, end=1.0)[0]
    how = {"positive": [*early, *late], "steps": 14, **HOW}
    both(host, "sd3", lambda model: sample(model, "sd3", **how), tokens=17 * 17)
