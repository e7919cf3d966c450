"""Seconds of full and pruned steps of a full-size transformer, in ComfyUI's own sampler."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from .. import host
from ..measure import seconds, synchronize
from ..pack.atedm_core.dit.choosing_flops import run_flops
from ..pack.atedm_core.dit.flops import transformer_flops
from ..pack.atedm_core.dit.schedule import CATSchedule
from ..pack.atedm_core.dit.selection import CATSelection, TokenSelector

PAPER_STEPS = 28
CHOICES_TIMED = 5
Clock = Callable[[], float]


class CallTimer:
    """Seconds of every model call of a run, the device's queue included."""

    def __init__(self, device: torch.device, clock: Clock) -> None:
        self._device, self._clock = device, clock
        self.seconds: list[float] = []

    def __call__(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        synchronize(self._device)
        start = self._clock()
        out = executor(*args, **kwargs)
        synchronize(self._device)
        self.seconds.append(self._clock() - start)
        return out


def call_seconds(model: Any, size: int, options: argparse.Namespace, device: torch.device) -> list[float]:
    """Seconds of each model call of one run of ComfyUI's own sampler."""
    from comfy.patcher_extension import WrappersMP

    timer = CallTimer(device, clock_of(options))
    timed = model.clone()
    timed.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "timer", timer)
    host.sample_latent(timed, (size, size), options.steps, options.cfg, device)
    return timer.seconds


def clock_of(options: argparse.Namespace) -> Clock:
    """What seconds are counted by: the wall's, or those that this process had the processor for."""
    return time.process_time if options.processor_time else time.perf_counter


def contenders(model: Any, selection: Any, schedule: Any) -> dict[str, Any]:
    """The unpruned model, the pruned one, and the one with ComfyUI's step cache."""
    from comfy_extras.nodes_easycache import LazyCacheNode

    from ..pack.patches.dit.apply import apply_cat

    pruned = apply_cat(model, selection, schedule)
    cached = LazyCacheNode.execute(model, reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False)
    return {"unpruned": model, "CAT Pruning": pruned, "LazyCache": cached.result[0]}


def choice_seconds(selection: Any, grid: tuple[int, int], device: torch.device, clock: Clock) -> float:
    """Median seconds of observing a step and choosing the next set, for one picture."""
    selector = TokenSelector(selection, grid)
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(1, grid[0] * grid[1], 64, generator=generator).to(device) for _ in range(3)]
    for one in noise[:2]:
        selector.observe(one, full=True)
    selector.choose()  # clusters once a run, before all other choices

    def choose() -> None:
        selector.observe(noise[2], full=False)
        selector.choose()

    choose()
    return statistics.median(seconds(choose, device, clock) for _ in range(CHOICES_TIMED))


def measure(
    options: argparse.Namespace,
    model: Any,
    size: int,
    device: torch.device,
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Times of all contenders at one size, and what follows from them; told to `keep` after every round."""
    selection = CATSelection(options.keep)
    schedule = CATSchedule(least_full_steps=2)
    runs: dict[str, list[list[float]]] = {}
    named = contenders(model, selection, schedule)
    if options.alone:
        del named["LazyCache"]
    row: dict[str, Any] = {}
    for round_number in range(1 - options.warm_ups, options.rounds + 1):
        for name, contender in named.items():
            with torch.inference_mode():
                calls = call_seconds(contender, size, options, device)
            if round_number > 0:
                runs.setdefault(name, []).append(calls)
            print(f"{size} px, round {round_number} of {options.rounds}, {name}: {sum(calls):.1f} s", flush=True)
        if round_number > 0:
            row = figures(runs, schedule.warmup_steps(options.steps), model, size, selection)
            choice = choice_seconds(selection, row["grid"], device, clock_of(options))
            row |= {"choice_seconds": choice, "choice_share": choice / row["pruned_step_seconds"]}
            keep(row)
    return row


def figures(
    runs: dict[str, list[list[float]]], full_steps: int, model: Any, size: int, selection: Any
) -> dict[str, Any]:
    """What follows from the seconds of all calls of all runs so far, beside what FLOPs allow."""
    from ..pack.patches.dit.families import family_of

    inner = model.model.diffusion_model
    family = family_of(inner)
    grid = family.grid(inner, (size // 8, size // 8))
    unpruned = [statistics.mean(calls[1:]) for calls in runs["unpruned"]]
    pruned = [statistics.mean(calls[full_steps:]) for calls in runs["CAT Pruning"]]
    ratios = [full / less for full, less in zip(unpruned, pruned, strict=True)]
    structure, tokens = family.structure(inner), grid[0] * grid[1]
    text, kept = host.INPUTS[type(model.model).__name__].tokens, selection.kept(tokens)
    paper = CATSchedule()
    given = structure, tokens, text
    composed = speed_up_of_a_run(statistics.median(ratios), PAPER_STEPS, paper.warmup_steps(PAPER_STEPS))
    row = {
        "size": size,
        "tokens": tokens,
        "grid": grid,
        "rounds": len(ratios),
        "unpruned_step_seconds": statistics.median(unpruned),
        "pruned_step_seconds": statistics.median(pruned),
        "step_speed_up": statistics.median(ratios),
        "step_speed_up_spread": [min(ratios), max(ratios)],
        "ideal_step_speed_up": transformer_flops(*given) / transformer_flops(*given, kept),
        "run_speed_up": ratio_of_runs(runs["unpruned"], runs["CAT Pruning"]),
        "speed_up_of_28_steps": composed,
        "ideal_speed_up_of_28_steps": run_flops(*given, PAPER_STEPS) / run_flops(*given, PAPER_STEPS, selection, paper),
        "steps_at_equal_cost": round(PAPER_STEPS / composed),
    }
    if "LazyCache" in runs:
        row["lazy_cache_run_speed_up"] = ratio_of_runs(runs["unpruned"], runs["LazyCache"])
        row["lazy_cache_calls"] = [len(calls) for calls in runs["LazyCache"]]
    return row


def ratio_of_runs(full: list[list[float]], other: list[list[float]]) -> float:
    """Median over rounds of whole runs' times, the first call of each left out."""
    return statistics.median(sum(a[1:]) / sum(b[1:]) for a, b in zip(full, other, strict=True))


def speed_up_of_a_run(step: float, steps: int, full_steps: int) -> float:
    """Of a run whose pruned steps are `step` times as fast.

    >>> round(speed_up_of_a_run(3.0, 28, 8), 2)
    1.91
    """
    return steps / (full_steps + (steps - full_steps) / step)
