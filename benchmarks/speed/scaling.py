"""How the speed-up grows with the picture's size and with the prune ratio, against what FLOPs allow.

    python dev.py bench scaling [--model sdxl] [--sizes 256 512 768 1024] [--ratios 0.25 0.4 0.66 0.8]

Two sweeps: sizes at one ratio, and ratios at one size. As in `speed`, contenders take turns in one process.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch

from ..measure import save
from ..pack.atedm_core.unet.settings import PRUNE_POINTS
from ..printing import show, times
from . import command
from .contenders import pruned, unpruned
from .plots import lines
from .speed import measure

CPU_SIZES, GPU_SIZES, TINY_SIZES = [256, 512, 768, 1024], [512, 768, 1024, 1536, 2048], [64, 128]
RATIOS, TINY_RATIOS = [0.25, 0.4, 0.66, 0.8], [0.63, 0.8]


def sweep(model: Any, sizes: list[int], ratios: list[float], options: argparse.Namespace, device: torch.device) -> list:
    """Rows of `speed` for every size and ratio, with the ratio beside them."""
    rows = []
    for ratio in ratios:
        contenders = [unpruned(model), *pruned(model, ratio, options.points)]
        asked = copy.copy(options)
        asked.ratio = ratio
        for size in sizes:
            rows += [{**row, "ratio": ratio} for row in measure(contenders, size, asked, device) if row["ideal"]]
    return rows


def curves(rows: list[dict[str, Any]], over: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(measured, ideal) by contender, along one column of the rows."""
    found: dict[str, Any] = {}
    ideal: dict[str, Any] = {}
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = [row for row in rows if row["contender"] == name]
        at = [row[over] for row in own]
        found[name] = at, [row["speed_up"] for row in own]
        ideal[name] = at, [row["ideal"] for row in own]
    return found, ideal


def main() -> None:
    """Parse, measure, print, save."""
    parser = command.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", help="edges in pixels of the first sweep")
    parser.add_argument("--ratios", type=float, nargs="+", help="of the second sweep")
    parser.add_argument("--size", type=int, help="of the second sweep; default 512, or 1024 on a GPU")
    parser.add_argument("--points", nargs="+", choices=PRUNE_POINTS, default=list(PRUNE_POINTS))
    parser.add_argument("--batch", type=int, default=1, help="pictures at once")
    parser.add_argument("--steps", type=int, default=4, help="of a run; the first is not timed")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device, model = command.prepare(options)
    on_gpu = device.type == "cuda"
    sizes = options.sizes or (TINY_SIZES if options.tiny else GPU_SIZES if on_gpu else CPU_SIZES)
    ratios = options.ratios or (TINY_RATIOS if options.tiny else RATIOS)
    size = options.size or (TINY_SIZES[-1] if options.tiny else 1024 if on_gpu else 512)
    by_size = sweep(model, sizes, [options.ratio], options, device)
    by_ratio = sweep(model, [size], ratios, options, device)
    where = command.where(options, device, batch=options.batch, steps=options.steps, rounds=options.rounds)
    cells = [
        [row["contender"], str(row["size"]), f"{row['ratio']:g}", times(row["speed_up"]), times(row["ideal"])]
        for row in [*by_size, *by_ratio]
    ]
    show("Speed-up by size and by ratio", ["", "size", "ratio", "speed-up", "ideal"], cells, where)
    path = command.result_path("scaling", options, device)
    print(f"written to {save(path, {'machine': where, 'by_size': by_size, 'by_ratio': by_ratio})}")
    machine = f"{where['model'].upper()}, {where['dtype']}, {where['device']}"
    for rows, over, label in ((by_size, "size", "edge of the picture, px"), (by_ratio, "ratio", "prune ratio")):
        plot = path.with_name(f"{path.stem}-by-{over}.png")
        print(f"plot: {lines(plot, machine, (label, 'times as fast as unpruned'), *curves(rows, over))}")


if __name__ == "__main__":
    main()
