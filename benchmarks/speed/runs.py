"""Seconds of whole runs with AT-EDM Auto beside the full model's: do they follow FLOPs?

    python dev.py bench runs [--model sdxl] [--size 512] [--steps 30] [--speed-ups 1.5 2 3] [--rounds 4]

A full-size model with random weights in ComfyUI's own sampler (euler), every run from its first evaluation to its
last, all in turn in one process; the first round warms up and is left out. A speed-up is the median over rounds of the
ratio of seconds. What FLOPs allow is the run's own record, forecasts and pruning together.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from .. import host
from ..measure import save
from ..printing import show, times
from . import command

TINY = (128, 8)


def measure(model: Any, options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """A row for every speed-up."""
    from ..pack.patches.host.finished_runs import _finished
    from ..pack.patches.steps.auto import apply_auto

    speed_ups = [1.0, *options.speed_ups]
    models = {one: apply_auto(model, one) for one in speed_ups}
    taken: dict[float, list[float]] = {one: [] for one in speed_ups}
    allowed = {}
    for turn in track(range((options.rounds + 1) * len(speed_ups)), f"{options.size} px, {options.steps} steps"):
        speed_up = speed_ups[turn % len(speed_ups)]
        started = time.perf_counter()
        host.sample(models[speed_up], (options.size, options.size), options.steps, options.cfg, device)
        taken[speed_up].append(time.perf_counter() - started)
        allowed[speed_up] = _finished[-1].record.ideal_speed_up
    return [_row(one, taken[1.0][1:], taken[one][1:], allowed[one]) for one in speed_ups]


def _row(speed_up: float, full: list[float], own: list[float], allowed: float) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(full, own, strict=True)]
    return {
        "speed_up": speed_up,
        "seconds": statistics.median(own),
        "reached": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "flops_allow": allowed,
    }


def report(rows: list[dict[str, Any]], where: dict[str, Any], path: Path) -> None:
    """Print the table, write JSON."""
    columns = ["speed_up", "seconds", "times as fast", "min to max", "FLOPs allow", "of that"]
    cells = [
        [
            f"{row['speed_up']:g}",
            f"{row['seconds']:.1f}",
            times(row["reached"]),
            f"{row['spread'][0]:.2f} to {row['spread'][1]:.2f}",
            times(row["flops_allow"]),
            f"{row['reached'] / row['flops_allow']:.0%}",
        ]
        for row in rows
    ]
    show("Whole runs with AT-EDM Auto", columns, cells, where)
    print(f"written to {save(path, {'machine': where, 'rows': rows})}")


def main() -> None:
    """Parse, measure, print, save."""
    parser = command.parser(__doc__)
    parser.add_argument("--size", type=int, default=512, help="edge in pixels")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--speed-ups", type=float, nargs="+", default=[1.5, 2.0, 3.0], help="1 to 4")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    if options.tiny:
        options.size, options.steps = TINY
    device, model = command.prepare(options)
    rows = measure(model, options, device)
    where = command.where(options, device, size=options.size, steps=options.steps, rounds=options.rounds)
    where["prune_ratio"] = "as chosen"
    report(rows, where, command.result_path("runs", options, device, f"{options.size}px"))


if __name__ == "__main__":
    main()
