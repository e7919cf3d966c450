"""What the tests of pruned runs look at: which tokens were dropped, what every layer ran on, what the log said."""

from __future__ import annotations

import atexit
import functools
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from in_process import InProcessHost
from sample_tiny import cond_for, ksample

from benchmarks import random_models as tiny_models

RATIO = 0.63
OBSERVERS_KEY = "atedm_observers"
Place = tuple[str, int]


@functools.cache
def shared_model(kind: str, seed: int = 0) -> Any:
    """One model of a kind for all tests of a process; none of them may leave a trace on it."""
    return tiny_models.KINDS[kind].build(seed=seed)


# ComfyUI's models say goodbye to each other, which they cannot once its modules are being taken apart.
atexit.register(shared_model.cache_clear)


def apply(host: InProcessHost, model: Any, ratio: float = RATIO, **inputs: Any) -> Any:
    """The model that AT-EDM Apply gives out, pruning from the first step on unless a schedule is given."""
    if "schedule" not in inputs:
        inputs["schedule"] = schedule(host, early_percent=0.0)
    return host.call("ATEDMApply", model=model, prune_ratio=ratio, **inputs)[0]


def schedule(host: InProcessHost, **inputs: Any) -> Any:
    """What AT-EDM DSAP Schedule gives out."""
    return host.call("ATEDMSchedule", **inputs)[0]


def sample(model: Any, kind: str = "sdxl", **how: Any) -> torch.Tensor:
    """Two small steps through the KSampler node, with this kind's conditioning."""
    how = {"width": 128, "height": 128, "steps": 2, **how}
    positive = how.pop("positive", None) or cond_for(kind, 1)
    negative = how.pop("negative", None) or cond_for(kind, 2)
    return ksample(model, positive, negative, **how)


@dataclass
class Call:
    """One call of the model: its noise level, and what was pruned in it."""

    sigma: float
    events: list[Any] = field(default_factory=list)

    def pruned(self) -> set[str]:
        return {event.block.name for event in self.events}


@dataclass
class Report:
    """What a run had added up when it ended: tallies by (condition, block)."""

    tallies: dict[Any, Any]
    steps: int


class Calls(list[Call]):
    """The calls of a watched model, in order, and a report for every run that AT-EDM took part in."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[Report] = []

    def events(self) -> list[Any]:
        return [event for call in self for event in call.events]


def watch(model: Any) -> tuple[Any, Calls]:
    """A clone of a model, and a list that gets an entry for every call of it."""
    import comfy.patcher_extension

    calls = Calls()

    def seen(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = kwargs.get("transformer_options", args[-1] if args else {})
        calls.append(Call(float(options["sigmas"][0])))
        return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "watching", seen)
    clone.model_options["transformer_options"][OBSERVERS_KEY] = [_Observer(calls)]
    return clone, calls


def in_halves(model: Any) -> Any:
    """A clone whose model calls run in two halves of the batch, as wrappers that save memory do."""

    def one_by_one(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
        c = given["c"]
        split = {key: value.chunk(2) for key, value in c.items() if isinstance(value, torch.Tensor)}
        halves = zip(given["input"].chunk(2), given["timestep"].chunk(2), strict=True)
        parts = [apply_model(x, t, **{**c, **{k: v[i] for k, v in split.items()}}) for i, (x, t) in enumerate(halves)]
        return torch.cat(parts)

    clone = model.clone()
    clone.set_model_unet_function_wrapper(one_by_one)
    return clone


class _Observer:
    """Sorts what was pruned under the call it was pruned in."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def pruned(self, event: Any) -> None:
        self._calls[-1].events.append(event)

    def finished(self, run: Any, steps: int) -> None:
        self._calls.reports.append(Report(dict(run.tallies), steps))


def watched_sample(model: Any, kind: str = "sdxl", **how: Any) -> tuple[torch.Tensor, Calls]:
    """Sample, and what was pruned meanwhile."""
    clone, calls = watch(model)
    return sample(clone, kind, **how), calls


def same_choices(one: list[Any], other: list[Any]) -> bool:
    """Whether two runs kept the same tokens, and gave dropped ones the same stand-ins, everywhere."""
    return len(one) == len(other) and all(
        torch.equal(a.subset.keep_index, b.subset.keep_index)
        and torch.equal(a.subset.source_index, b.subset.source_index)
        for a, b in zip(one, other, strict=True)
    )


def assert_pruned(calls: Calls, out: torch.Tensor, ratio: float = RATIO) -> None:
    """The run gave a picture, and tokens really were dropped in it, as many as the ratio says."""
    assert torch.isfinite(out).all()
    assert out.std() > 0
    events = calls.events()
    assert events
    for event in events:
        total = event.grid[0] * event.grid[1]
        assert event.subset.total == total
        assert abs(event.subset.kept - total * (1 - ratio)) <= 0.5
        assert event.subset.kept < total


def transformers(model: Any) -> dict[Place, torch.nn.Module]:
    """The attention blocks of a U-Net by place, found without the pack's help."""
    from comfy.ldm.modules.attention import SpatialTransformer

    unet = model.model.diffusion_model
    parts = [("input", i, m) for i, m in enumerate(unet.input_blocks)]
    parts += [("middle", 0, unet.middle_block)] if unet.middle_block is not None else []
    parts += [("output", i, m) for i, m in enumerate(unet.output_blocks)]
    return {
        (part, i): module for part, i, modules in parts for module in modules if isinstance(module, SpatialTransformer)
    }


@contextmanager
def layer_tokens(model: Any) -> Iterator[dict[tuple[str, int, int], list[dict[str, int]]]]:
    """How many tokens each attention layer of the host runs its sections on; one entry per pass of the layer."""
    seen: dict[tuple[str, int, int], list[dict[str, int]]] = defaultdict(list)
    handles = []

    def note(key: tuple[str, int, int], section: str) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
            if section == "attn1":
                seen[key].append({})
            seen[key][-1][section] = args[0].shape[1]

        return hook

    for (part, index), block in transformers(model).items():
        for number, layer in enumerate(block.transformer_blocks):
            for section in ("attn1", "attn2", "ff"):
                hook = note((part, index, number), section)
                handles.append(getattr(layer, section).register_forward_pre_hook(hook))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def own_lines(caplog: Any, level: int | None = None) -> list[str]:
    """What the pack logged at one level, or at all."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("AT-EDM") and level in (None, record.levelno)
    ]


def info_lines(caplog: Any) -> list[str]:
    return own_lines(caplog, logging.INFO)


def warning_lines(caplog: Any) -> list[str]:
    return own_lines(caplog, logging.WARNING)


def relative_error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())
