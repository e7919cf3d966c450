"""Seconds per step, pruned against unpruned, at the three pruning points.

    python dev.py bench speed [--model sdxl] [--sizes 512 1024] [--dtype bfloat16] [--cfg 1] [--rounds 5]

Full-size models with random weights, in ComfyUI's own sampler. The unpruned model and each variant take turns, run by
run, in one process; the first step of a run is left out. A speed-up is the median over rounds of the ratio of mean
step times. The ideal is the ratio of FLOPs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from . import _host
from ._measure import machine, pick_device, save

RANK_INTERVAL = 4
STEPS = 1 + RANK_INTERVAL
POINTS = ("after first layer", "inside first layer", "block start")


def variants(model: Any, ratio: float, points: list[str]) -> dict[str, Any]:
    """The model patched at each pruning point, all blocks pruned from the first step on."""
    apply = _host.pack("patches.apply").apply_atedm
    settings = _host.pack("atedm_core.pruning").PruneSettings
    schedule = _host.pack("atedm_core.dsap").DSAPSchedule(prune_ratio=ratio, early_percent=0.0)
    made = {}
    for point in points:
        interval = RANK_INTERVAL if point == "block start" else 1
        made[point] = apply(model, schedule, settings(prune_from=point, rank_interval=interval))
    return made


def ideal_speed_up(model: Any, size: int, ratio: float, point: str) -> float:
    """Ratio of FLOPs of the whole model; for the block's start with the ranking steps that it needs."""
    structure = _host.pack("patches.unet_structure")
    unet = structure.describe_unet(structure.supported_unet(model))
    cost = _host.pack("atedm_core.cost").unet_flops
    latent = (size // 8, size // 8)
    pruned = cost(unet, latent, ratio, point=point)
    if point == "block start":
        ranking = cost(unet, latent, ratio, point="inside first layer")
        pruned = (pruned * (RANK_INTERVAL - 1) + ranking) / RANK_INTERVAL
    return cost(unet, latent) / pruned


def measure(options: argparse.Namespace, model: Any, size: int, device: torch.device) -> list[dict[str, Any]]:
    """One row per pruning point."""
    patched = variants(model, options.ratio, options.points)
    contenders = {"unpruned": model, **patched}

    def step_seconds(contender: Any) -> float:
        calls = _host.sample(contender, options.model, (size, size), STEPS, options.cfg, device)
        return statistics.mean(calls[len(calls) // STEPS :])

    times: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, float] = {}
    for round_number in range(options.rounds + 1):
        for name, contender in contenders.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            found = step_seconds(contender)
            if device.type == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated(device) / 2**20
            if round_number > 0:  # the first round warms up
                times[name].append(found)
            print(f"\r{size} px, round {round_number} of {options.rounds}, {name}: {found:.3f} s/step   ", end="")
    print(file=sys.stderr)
    rows = []
    for point in patched:
        ratios = [full / pruned for full, pruned in zip(times["unpruned"], times[point], strict=True)]
        rows.append(
            {
                "size": size,
                "point": point,
                "unpruned_seconds": statistics.median(times["unpruned"]),
                "seconds": statistics.median(times[point]),
                "speed_up": statistics.median(ratios),
                "spread": [min(ratios), max(ratios)],
                "ideal": ideal_speed_up(model, size, options.ratio, point),
                "peak_mib": peaks.get(point),
                "unpruned_peak_mib": peaks.get("unpruned"),
            }
        )
    return rows


def show(rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    """One table, the machine under it."""
    table = Table(title="Seconds per step, pruned against unpruned")
    for column in ("size", "tokens dropped", "unpruned", "pruned", "speed-up", "min to max", "ideal"):
        table.add_column(column, justify="left" if column == "tokens dropped" else "right")
    for row in rows:
        table.add_row(
            str(row["size"]),
            row["point"],
            f"{row['unpruned_seconds']:.3f} s",
            f"{row['seconds']:.3f} s",
            f"{row['speed_up']:.2f}x",
            f"{row['spread'][0]:.2f} to {row['spread'][1]:.2f}",
            f"{row['ideal']:.2f}x",
        )
    console = Console()
    console.print()
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in where.items()), style="dim")


def main() -> None:
    """Parse, measure, print, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=["sdxl", "sd15"], default="sdxl")
    parser.add_argument("--sizes", type=int, nargs="+", help="edges in pixels; default 512, or 1024 and 2048 on a GPU")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default bfloat16")
    parser.add_argument("--cfg", type=float, default=1.0, help="1 runs one condition, more runs two")
    parser.add_argument("--ratio", type=float, default=0.63)
    parser.add_argument("--points", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the CPU; default all")
    parser.add_argument("--device", help="default: the accelerator if there is one")
    options = parser.parse_args()
    device = pick_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    _host.enter(device)
    started = time.perf_counter()
    dtype = getattr(torch, options.dtype or "bfloat16")
    model = _host.full_model(options.model, dtype)
    print(f"{options.model} built in {time.perf_counter() - started:.0f} s")
    sizes = options.sizes or ([512] if device.type == "cpu" else [1024, 2048])
    rows = [row for size in sizes for row in measure(options, model, size, device)]
    where = {**machine(device), "model": options.model, "dtype": str(dtype), "cfg": options.cfg}
    where |= {"prune_ratio": options.ratio, "attention": "PyTorch", "rounds": options.rounds}
    show(rows, where)
    pixels = "-".join(str(size) for size in sizes)
    name = f"speed-{options.model}-{device.type}-{str(dtype).removeprefix('torch.')}-cfg{options.cfg:g}-{pixels}px"
    print(f"written to {save(name, {'machine': where, 'rows': rows})}")


if __name__ == "__main__":
    main()
