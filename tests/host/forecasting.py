"""Runs with forecasts on tiny models of every kind, and what they did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sample_transformers
import tiny_video_and_audio
import torch
from sample_tiny import cond_for, empty_latent, ksample

from benchmarks import random_models

UNETS = ("sdxl", "sd15", "sd2")
TRANSFORMERS = ("sd3", "flux", "qwen_image")
OTHERS = ("wan", "stable_audio")
KINDS = (*UNETS, *TRANSFORMERS, *OTHERS)


def shared(kind: str) -> Any:
    """One model of a kind for all tests; none of them may leave a trace on it."""
    if kind in OTHERS:
        return tiny_video_and_audio.shared(kind)
    return sample_transformers.shared(kind) if kind in TRANSFORMERS else _unet(kind)


_unets: dict[str, Any] = {}


def _unet(kind: str) -> Any:
    if kind not in _unets:
        _unets[kind] = random_models.KINDS[kind].build()
    return _unets[kind]


def sample(model: Any, kind: str = "sdxl", **how: Any) -> torch.Tensor:
    """Twelve small steps through the KSampler node."""
    source = tiny_video_and_audio if kind in OTHERS else sample_transformers
    if kind in UNETS:
        start, prompts = empty_latent(64, 64), (cond_for(kind, 1, 4), cond_for(kind, 2, 4))
    else:
        start, prompts = source.latent(kind), (source.prompt(kind, 1), source.prompt(kind, 2))
    given = {"steps": 12, "cfg": 4.0, "latent": start, "positive": prompts[0], "negative": prompts[1], **how}
    return ksample(model, given.pop("positive"), given.pop("negative"), **given)


@dataclass
class Watched:
    """A model with forecasts, what its runs did, and every evaluation of the model beneath."""

    model: Any
    runs: list[Any] = field(default_factory=list)
    calls: list[tuple[int, ...]] = field(default_factory=list)

    def finished(self, run: Any) -> None:
        """For the pack's `ForecastObserver`."""
        self.runs.append(run)

    @property
    def letters(self) -> str:
        """The last run: R for a real evaluation, . for a forecast."""
        return "".join("R" if one.real else "." for one in self.runs[-1].evaluations)


def forecast(host: Any, base: Any, compute: float = 0.5, **settings: Any) -> Watched:
    """`base` with forecasts, watched from within and from below."""
    apply = host.module("patches.steps.apply")
    chosen = host.module("atedm_core.forecast_plan").ForecastSettings(compute, **settings)
    watched = Watched(apply.apply_forecast(base, chosen))
    options = watched.model.model_options.setdefault("transformer_options", {})
    options[apply.OBSERVERS_KEY] = [watched]
    count_calls(watched.model, watched.calls)
    return watched


def count_calls(model: Any, calls: list[tuple[int, ...]]) -> None:
    """Note the shape of every evaluation's latent, where guiders ask for it, within all other wrappers."""
    from comfy.patcher_extension import WrappersMP

    def note(executor: Any, model: Any, conds: Any, x: Any, *rest: Any, **named: Any) -> Any:
        calls.append(tuple(x.shape))
        return executor(model, conds, x, *rest, **named)

    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test", note)


@contextmanager
def answers_replaced(model: Any, answer: Any) -> Iterator[Any]:
    """A clone of `model` whose diffusion model's answers go through `answer(output, sigma)`."""
    clone = model.clone()

    def wrapper(apply_model: Any, given: dict[str, Any]) -> Any:
        output = apply_model(given["input"], given["timestep"], **given["c"])
        return answer(output, float(given["timestep"].max()))

    clone.set_model_unet_function_wrapper(wrapper)
    yield clone
