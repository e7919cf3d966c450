"""Peak memory of sampling: AT-EDM at its three pruning points beside the unpruned model.

    python dev.py bench memory [--model sdxl] [--sizes 1024] [--dtype bfloat16] [--cfg 1]

What a run of sampling holds at its peak beyond the model's own weights. On a CUDA device the allocator counts; on a CPU
every contender runs in a process of its own, whose resident size is sampled, and freed memory that the process keeps
counts as held.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch

from . import _command, _host
from ._contenders import POINTS, UNPRUNED, apply
from ._measure import peak_extra_bytes, run_alone, save
from ._plots import bars
from ._tables import show

MIB = 1 << 20
STEPS = 2  # one that ranks, and one that can use a ranking made before
TINY_SIZE = 128


def peak_of(name: str, model: Any, size: int, options: argparse.Namespace, device: torch.device) -> int:
    """Peak bytes of one run beyond what was held before; a run at a small size goes before it and loads the weights."""
    contender = model if name == UNPRUNED else apply(model, options.ratio, name)

    def run(edge: int) -> None:
        _host.sample(contender, (edge, edge), STEPS, options.cfg, device)

    run(64)
    return peak_extra_bytes(lambda: run(size), device)


def measure(size: int, options: argparse.Namespace, device: torch.device, model: Any) -> list[dict[str, Any]]:
    """One row per contender."""
    rows = []
    for name in (UNPRUNED, *options.points):
        if device.type == "cuda":
            peak = peak_of(name, model, size, options, device)
        else:
            arguments = [*sys.argv[1:], "--one", name, "--sizes", str(size)]
            peak = run_alone(__spec__.name, *arguments)
        rows.append({"size": size, "contender": name, "peak_mib": peak / MIB, "share": peak / MIB})
        rows[-1]["share"] = rows[-1]["peak_mib"] / rows[0]["peak_mib"]
        print(f"{size} px, {name}: {peak / MIB:.0f} MiB", flush=True)
    return rows


def main() -> None:
    """Parse, measure, print, save."""
    parser = _command.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", help="edges in pixels; default 1024, and 2048 on a GPU")
    parser.add_argument("--points", nargs="*", choices=POINTS, default=list(POINTS))
    parser.add_argument("--one", choices=[UNPRUNED, *POINTS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_gpu = _command.pick_device(options.device).type == "cuda"
    sizes = options.sizes or ([TINY_SIZE] if options.tiny else [1024, 2048] if on_gpu else [1024])
    if options.one:
        device, model = _command.prepare(options)
        print(json.dumps(peak_of(options.one, model, sizes[0], options, device)))
        return
    device, model = _command.prepare(options) if on_gpu else (_command.pick_device(options.device), None)
    rows = [row for size in sizes for row in measure(size, options, device, model)]
    where = _command.where(options, device, steps=STEPS)
    cells = [[row["contender"], str(row["size"]), f"{row['peak_mib']:.0f}", f"{row['share']:.1%}"] for row in rows]
    show("Peak memory of sampling beyond the weights", ["", "size", "MiB", "of unpruned"], cells, where)
    path = _command.result_path("memory", options, device, "-".join(f"{size}px" for size in sizes))
    print(f"written to {save(path, {'machine': where, 'rows': rows})}")
    values = {f"{row['contender']}, {row['size']} px": row["peak_mib"] for row in rows}
    print(f"plot: {bars(path.with_suffix('.png'), 'Peak memory of sampling', 'MiB beyond the weights', values, {})}")


if __name__ == "__main__":
    main()
