"""CAT Pruning: seconds of a run and of a pruned step, beside the unpruned model, LazyCache and fewer steps.

    python dev.py bench cat [--model sd3] [--sizes 512 1024] [--steps 28] [--rounds 5] [--dtype bfloat16]

Full-size models with random weights, in ComfyUI's own sampler (euler, with guidance). The contenders take turns, run by
run, in one process. A speed-up is the median over rounds of the ratio of times; the first call of a run is left out.
The ideal is the ratio of FLOPs. The figure for 28 steps is put together from the times of single steps. Choosing the
tokens is timed by itself as well. What LazyCache leaves out depends on the weights, so here it only shows what its own
work costs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from .. import host
from ..measure import RESULTS, SCRATCH, machine, pick_device, save
from .cat_steps import PAPER_STEPS, measure


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
    }
    if any("lazy_cache_calls" in row for row in rows):
        columns["LazyCache"] = lambda row: f"{row['lazy_cache_run_speed_up']:.2f}x, {row['lazy_cache_calls'][0]} calls"
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    console = Console()
    console.print()
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in where.items()), style="dim")


def main() -> None:
    """Parse, measure, print, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=["sd3", "pixart"], default="sd3")
    parser.add_argument("--sizes", type=int, nargs="+", help="edges in pixels; default 512, or 512 and 1024 on a GPU")
    parser.add_argument("--steps", type=int, help=f"of a run; default {PAPER_STEPS} on a GPU, 6 on a CPU")
    parser.add_argument("--keep", type=float, default=0.3)
    parser.add_argument("--cfg", type=float, default=4.0, help="1 runs one condition, more runs two")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-ups", type=int, default=1, help="rounds before those that count")
    parser.add_argument("--alone", action="store_true", help="without LazyCache")
    parser.add_argument("--threads", type=int, help="of the CPU; default all")
    parser.add_argument("--device", help="default: the accelerator if there is one")
    parser.add_argument(
        "--processor-time", action="store_true", help="for a busy machine: count no time that other programs had"
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny model: shows that it runs")
    parser.add_argument(
        "--results", type=Path, help="folder to write to; default benchmarks/results, or out with --tiny"
    )
    options = parser.parse_args()
    device = pick_device(options.device)
    options.steps = options.steps or (6 if device.type == "cpu" else PAPER_STEPS)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.processor_time and (device.type != "cpu" or torch.get_num_threads() > 1):
        parser.error("--processor-time counts all threads together: it is for the CPU with --threads 1")
    host.enter(device)
    started = time.perf_counter()
    model = host.random_model(options.model, getattr(torch, options.dtype), options.tiny)
    print(f"{options.model} built in {time.perf_counter() - started:.0f} s")
    # PixArt cannot place tokens below some 300 px
    usual = [512] if options.tiny or device.type == "cpu" else [512, 1024]
    sizes = options.sizes or usual
    where = {
        **machine(device),
        "model": f"tiny {options.model}" if options.tiny else options.model,
        "dtype": options.dtype,
        "cfg": options.cfg,
    }
    where |= {"keep_ratio": options.keep, "steps": options.steps, "attention": "PyTorch"}
    where["clock"] = "processor time" if options.processor_time else "wall time"
    rows: dict[int, dict[str, Any]] = {}
    file = result_path(options, device, sizes)

    def keep(row: dict[str, Any]) -> None:
        """At once: full-size models take minutes a round, and what was measured must outlive an interruption."""
        rows[row["size"]] = row
        save(file, {"machine": where, "rows": list(rows.values())})

    for size in sizes:
        measure(options, model, size, device, keep)
    show(list(rows.values()), where, options.steps)
    print(f"written to {file}")


def result_path(options: argparse.Namespace, device: torch.device, sizes: list[int]) -> Path:
    """Where a result goes; what tiny models give is not kept."""
    name = f"cat-{options.model}-{device.type}-{options.dtype}-cfg{options.cfg:g}-{'-'.join(map(str, sizes))}px"
    return (options.results or (SCRATCH if options.tiny else RESULTS)) / f"{name}.json"


if __name__ == "__main__":
    main()
