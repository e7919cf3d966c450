"""CAT Pruning: seconds of a run and of a pruned step, beside the unpruned model, LazyCache and fewer steps.

    python dev.py bench cat [--model sd3] [--sizes 512 1024] [--steps 28] [--rounds 5] [--dtype bfloat16]
    python dev.py bench cat --fidelity [--groups "cat 20 steps" ...] [--set confirm]    (docs/cat_fidelity.md)

Full-size models with random weights, in ComfyUI's own sampler (euler, with guidance). The contenders take turns, run by
run, in one process. A speed-up is the median over rounds of the ratio of times; the first call of a run is left out.
The ideal is the ratio of FLOPs. The figure for 28 steps is put together from the times of single steps. Choosing the
tokens is timed by itself as well. What LazyCache leaves out depends on the weights, so here it only shows what its own
work costs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from . import _host
from ._cat import command as pictures
from ._measure import RESULTS, machine, pick_device, save, seconds, synchronize

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
    _host.sample_latent(timed, (size, size), options.steps, options.cfg, device)
    return timer.seconds


def clock_of(options: argparse.Namespace) -> Clock:
    """What seconds are counted by: the wall's, or those that this process had the processor for."""
    return time.process_time if options.processor_time else time.perf_counter


def contenders(model: Any, selection: Any, schedule: Any) -> dict[str, Any]:
    """The unpruned model, the pruned one, and the one with ComfyUI's step cache."""
    from comfy_extras.nodes_easycache import LazyCacheNode

    pruned = _host.pack("patches.cat_apply").apply_cat(model, selection, schedule)
    cached = LazyCacheNode.execute(model, reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False)
    return {"unpruned": model, "CAT Pruning": pruned, "LazyCache": cached.result[0]}


def choice_seconds(selection: Any, grid: tuple[int, int], device: torch.device, clock: Clock) -> float:
    """Median seconds of observing a step and choosing the next set, for one picture."""
    selector = _host.pack("atedm_core.cat").TokenSelector(selection, grid)
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


def measure(options: argparse.Namespace, model: Any, size: int, device: torch.device) -> dict[str, Any]:
    """Times of all contenders at one size, and what follows from them."""
    selection = _host.pack("atedm_core.cat").CATSelection(options.keep)
    schedule = _host.pack("atedm_core.cat_schedule").CATSchedule(least_full_steps=2)
    full_steps = schedule.warmup_steps(options.steps)
    runs: dict[str, list[list[float]]] = {}
    named = contenders(model, selection, schedule)
    with torch.inference_mode():
        for round_number in range(options.rounds + 1):
            for name, contender in named.items():
                calls = call_seconds(contender, size, options, device)
                if round_number > 0:  # the first round warms up
                    runs.setdefault(name, []).append(calls)
                print(f"\r{size} px, round {round_number} of {options.rounds}, {name}: {sum(calls):.1f} s   ", end="")
                sys.stdout.flush()
    print(file=sys.stderr)
    families = _host.pack("patches.cat_families")
    inner = model.model.diffusion_model
    family = families.family_of(inner)
    grid = family.grid(inner, (size // 8, size // 8))
    unpruned = [statistics.mean(calls[1:]) for calls in runs["unpruned"]]
    pruned = [statistics.mean(calls[full_steps:]) for calls in runs["CAT Pruning"]]
    step = statistics.median(full / less for full, less in zip(unpruned, pruned, strict=True))
    choice = choice_seconds(selection, grid, device, clock_of(options))
    cost = _host.pack("atedm_core.transformer_cost")
    structure, tokens, text = (
        family.structure(inner),
        grid[0] * grid[1],
        _host.INPUTS[type(model.model).__name__].tokens,
    )
    kept = selection.kept(tokens)
    ideal_step = cost.transformer_flops(structure, tokens, text) / cost.transformer_flops(structure, tokens, text, kept)
    paper = _host.pack("atedm_core.cat_schedule").CATSchedule()
    ideal = cost.run_flops(structure, tokens, text, PAPER_STEPS) / cost.run_flops(
        structure, tokens, text, PAPER_STEPS, selection, paper
    )
    composed = speed_up_of_a_run(step, PAPER_STEPS, paper.warmup_steps(PAPER_STEPS))
    return {
        "size": size,
        "tokens": tokens,
        "unpruned_step_seconds": statistics.median(unpruned),
        "pruned_step_seconds": statistics.median(pruned),
        "step_speed_up": step,
        "ideal_step_speed_up": ideal_step,
        "run_speed_up": ratio_of_runs(runs["unpruned"], runs["CAT Pruning"]),
        "lazy_cache_run_speed_up": ratio_of_runs(runs["unpruned"], runs["LazyCache"]),
        "lazy_cache_calls": [len(calls) for calls in runs["LazyCache"]],
        "speed_up_of_28_steps": composed,
        "ideal_speed_up_of_28_steps": ideal,
        "steps_at_equal_cost": round(PAPER_STEPS / composed),
        "choice_seconds": choice,
        "choice_share": choice / statistics.median(pruned),
    }


def ratio_of_runs(full: list[list[float]], other: list[list[float]]) -> float:
    """Median over rounds of whole runs' times, the first call of each left out."""
    return statistics.median(sum(a[1:]) / sum(b[1:]) for a, b in zip(full, other, strict=True))


def speed_up_of_a_run(step: float, steps: int, full_steps: int) -> float:
    """Of a run whose pruned steps are `step` times as fast.

    >>> round(speed_up_of_a_run(3.0, 28, 8), 2)
    1.91
    """
    return steps / (full_steps + (steps - full_steps) / step)


def show(rows: list[dict[str, Any]], where: dict[str, Any], steps: int) -> None:
    """One table, the machine under it."""
    table = Table(title="CAT Pruning against the unpruned model")
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "size": lambda row: str(row["size"]),
        "full step": lambda row: f"{row['unpruned_step_seconds']:.2f} s",
        "pruned step": lambda row: f"{row['pruned_step_seconds']:.2f} s",
        "faster": lambda row: f"{row['step_speed_up']:.2f}x of {row['ideal_step_speed_up']:.2f}x",
        "choosing": lambda row: f"{row['choice_share']:.1%}",
        f"run of {steps}": lambda row: f"{row['run_speed_up']:.2f}x",
        f"{PAPER_STEPS} steps": lambda row: (
            f"{row['speed_up_of_28_steps']:.2f}x of {row['ideal_speed_up_of_28_steps']:.2f}x"
        ),
        "same cost": lambda row: f"{row['steps_at_equal_cost']} full steps",
        "LazyCache": lambda row: f"{row['lazy_cache_run_speed_up']:.2f}x, {row['lazy_cache_calls'][0]} calls",
    }
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    console = Console()
    console.print()
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in where.items()), style="dim")


def main() -> None:
    """Parse, measure, print, save; with --fidelity, pictures instead of seconds."""
    if pictures.asked_for(sys.argv[1:]):
        sys.exit(pictures.main(sys.argv[1:]))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=["sd3", "pixart"], default="sd3")
    parser.add_argument("--sizes", type=int, nargs="+", help="edges in pixels; default 512, or 512 and 1024 on a GPU")
    parser.add_argument("--steps", type=int, help=f"of a run; default {PAPER_STEPS} on a GPU, 6 on a CPU")
    parser.add_argument("--keep", type=float, default=0.3)
    parser.add_argument("--cfg", type=float, default=4.0, help="1 runs one condition, more runs two")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the CPU; default all")
    parser.add_argument("--device", help="default: the accelerator if there is one")
    parser.add_argument(
        "--processor-time", action="store_true", help="for a busy machine: count no time that other programs had"
    )
    options = parser.parse_args()
    device = pick_device(options.device)
    options.steps = options.steps or (6 if device.type == "cpu" else PAPER_STEPS)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.processor_time and (device.type != "cpu" or torch.get_num_threads() > 1):
        parser.error("--processor-time counts all threads together: it is for the CPU with --threads 1")
    _host.enter(device)
    started = time.perf_counter()
    model = _host.random_model(options.model, getattr(torch, options.dtype))
    print(f"{options.model} built in {time.perf_counter() - started:.0f} s")
    sizes = options.sizes or ([512] if device.type == "cpu" else [512, 1024])
    rows = [measure(options, model, size, device) for size in sizes]
    where = {**machine(device), "model": options.model, "dtype": options.dtype, "cfg": options.cfg}
    where |= {"keep_ratio": options.keep, "steps": options.steps, "attention": "PyTorch", "rounds": options.rounds}
    where["clock"] = "processor time" if options.processor_time else "wall time"
    show(rows, where, options.steps)
    pixels = "-".join(str(size) for size in sizes)
    name = f"cat-{options.model}-{device.type}-{options.dtype}-{pixels}px"
    print(f"written to {save(RESULTS / f'{name}.json', {'machine': where, 'rows': rows})}")


if __name__ == "__main__":
    main()
