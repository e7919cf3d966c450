"""Peak memory of sampling: AT-EDM at its three pruning points beside the unpruned model.

    python dev.py bench memory [--model sdxl] [--sizes 1024] [--dtype bfloat16] [--cfg 1]

What a run of sampling holds at its peak beyond the model's own weights. On a CUDA device the allocator counts;
elsewhere it is the tensors that are alive at once.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from .. import host
from ..measure import peak_tensor_bytes, save
from ..pack.atedm_core.unet.settings import PRUNE_POINTS
from ..printing import show
from . import command
from .contenders import pruned, unpruned
from .plots import bars

MIB = 1 << 20
STEPS = 2
TINY_SIZE = 128
SMALL = 64


def measure(model: Any, size: int, options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """One row per contender."""
    rows: list[dict[str, Any]] = []
    for contender in [unpruned(model), *pruned(model, options.ratio, options.points)]:

        def run(edge: int, which: Any = contender.model) -> None:
            host.sample(which, (edge, edge), STEPS, options.cfg, device)

        run(SMALL)  # loads the weights and tries the kernels
        peak = peak_tensor_bytes(lambda run=run: run(size), device) / MIB
        share = peak / rows[0]["peak_mib"] if rows else 1.0
        rows.append({"size": size, "contender": contender.name, "peak_mib": peak, "share": share})
        print(f"{size} px, {contender.name}: {peak:.0f} MiB", flush=True)
    return rows


def main() -> None:
    """Parse, measure, print, save."""
    parser = command.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", help="edges in pixels; default 1024, and 2048 on a GPU")
    parser.add_argument("--points", nargs="*", choices=PRUNE_POINTS, default=list(PRUNE_POINTS))
    options = parser.parse_args()
    device, model = command.prepare(options)
    on_gpu = device.type == "cuda"
    sizes = options.sizes or ([TINY_SIZE] if options.tiny else [1024, 2048] if on_gpu else [1024])
    rows = [row for size in sizes for row in measure(model, size, options, device)]
    where = command.where(options, device, steps=STEPS)
    cells = [[row["contender"], str(row["size"]), f"{row['peak_mib']:.0f}", f"{row['share']:.1%}"] for row in rows]
    show("Peak memory of sampling beyond the weights", ["", "size", "MiB", "of unpruned"], cells, where)
    path = command.result_path("memory", options, device, "-".join(f"{size}px" for size in sizes))
    print(f"written to {save(path, {'machine': where, 'rows': rows})}")
    values = {f"{row['contender']}, {row['size']} px": row["peak_mib"] for row in rows}
    print(f"plot: {bars(path.with_suffix('.png'), 'Peak memory of sampling', 'MiB beyond the weights', values, {})}")


if __name__ == "__main__":
    main()
