"""Seconds per step beside the unpruned model: AT-EDM at its three pruning points, peers, and both stacked.

    python dev.py bench speed [--model sdxl] [--sizes 512 1024] [--dtype bfloat16] [--cfg 1] [--beside peers stacked]

Full-size models with random weights in ComfyUI's own sampler: speed does not depend on weights, but which steps
EasyCache and LazyCache leave out does, so their rows show what such savings add up to and not what they save on real
models. All contenders take turns, run by run, in one process; the first step of a run is left out. A speed-up is the
median over rounds of the ratio of mean step times, the ideal is the ratio of FLOPs.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .. import host
from ..measure import save
from ..pack.atedm_core.unet.settings import PRUNE_POINTS
from ..printing import show, times
from . import command
from .contenders import UNPRUNED, Contender, ideal_speed_up, peers, pruned, stacked, unpruned
from .plots import bars

STEPS = 9
TINY_SIZE = 128


def measure(
    contenders: list[Contender],
    size: int,
    options: argparse.Namespace,
    device: torch.device,
) -> list[dict[str, Any]]:
    """One row per contender. The unpruned model has to be the first."""
    taken: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    peaks: dict[str, float] = {}
    columns = (*Progress.get_default_columns()[:3], TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[last]}"), refresh_per_second=1) as progress:
        task = progress.add_task(f"{size} px", total=(options.rounds + 1) * len(contenders), last="")
        for round_number in range(options.rounds + 1):
            for contender in contenders:
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                steps = host.sample(contender.model, (size, size), options.steps, options.cfg, device, options.batch)
                if device.type == "cuda":
                    peaks[contender.name] = torch.cuda.max_memory_allocated(device) / 2**20
                if round_number > 0:  # the first round warms up
                    taken[contender.name].append(statistics.mean(steps))
                progress.update(task, advance=1, last=f"{contender.name}: {statistics.mean(steps):.3f} s/step")
    return [_row(contender, contenders[0], size, options.ratio, taken, peaks) for contender in contenders]


def _row(
    contender: Contender,
    full: Contender,
    size: int,
    ratio: float,
    taken: dict[str, list[float]],
    peaks: dict[str, float],
) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(taken[full.name], taken[contender.name], strict=True)]
    ideal = None
    if contender.point is not None and contender.alone:
        ideal = ideal_speed_up(full.model, (size, size), ratio, contender.point)
    return {
        "size": size,
        "contender": contender.name,
        "seconds": statistics.median(taken[contender.name]),
        "speed_up": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "ideal": ideal,
        "peak_mib": peaks.get(contender.name),
    }


def report(rows: list[dict[str, Any]], where: dict[str, Any], path: Path) -> None:
    """Print the table, write JSON and plots."""
    memory = any(row["peak_mib"] for row in rows)
    columns = ["", "size", "s/step", "speed-up", "min to max", "ideal", *(["peak MiB"] if memory else [])]
    cells = []
    for row in rows:
        low, high = row["spread"]
        cells.append(
            [
                row["contender"],
                str(row["size"]),
                f"{row['seconds']:.3f}",
                times(row["speed_up"]),
                f"{low:.2f} to {high:.2f}",
                times(row["ideal"]),
                *([f"{row['peak_mib']:.0f}"] if memory else []),
            ]
        )
    show("Seconds per step beside the unpruned model", columns, cells, where)
    print(f"written to {save(path, {'machine': where, 'rows': rows})}")
    for size in sorted({row["size"] for row in rows}):
        own = [row for row in rows if row["size"] == size and row["contender"] != UNPRUNED]
        values = {row["contender"]: row["speed_up"] for row in own}
        ideal = {row["contender"]: row["ideal"] for row in own if row["ideal"]}
        title = f"{where['model'].upper()} at {size} px, {where['dtype']}, {where['device']}"
        plot = path.with_name(f"{path.stem}-{size}.png")
        print(f"plot: {bars(plot, title, 'times as fast as unpruned', values, ideal)}")


def main() -> None:
    """Parse, measure, print, save."""
    parser = command.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", help="edges in pixels; default 512, or 1024 and 2048 on a GPU")
    parser.add_argument("--points", nargs="*", choices=PRUNE_POINTS, default=list(PRUNE_POINTS))
    parser.add_argument("--beside", nargs="*", choices=["peers", "stacked"], default=["peers", "stacked"])
    parser.add_argument("--batch", type=int, default=1, help="pictures at once")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a run; the first is not timed")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device, model = command.prepare(options)
    contenders = [unpruned(model), *pruned(model, options.ratio, options.points)]
    if "peers" in options.beside:
        contenders += peers(model)
    if "stacked" in options.beside:
        contenders += stacked(model, options.ratio)
    sizes = options.sizes or ([TINY_SIZE] if options.tiny else [512] if device.type == "cpu" else [1024, 2048])
    rows = [row for size in sizes for row in measure(contenders, size, options, device)]
    where = command.where(options, device, batch=options.batch, steps=options.steps, rounds=options.rounds)
    pixels = "-".join(str(size) for size in sizes)
    batch = [f"batch{options.batch}"] if options.batch > 1 else []
    beside = ["beside"] if options.beside else []
    report(rows, where, command.result_path("speed", options, device, *batch, f"{pixels}px", *beside))


if __name__ == "__main__":
    main()
