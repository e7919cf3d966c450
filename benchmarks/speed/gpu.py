"""Everything that an accelerator is needed for, in one command and without network.

    python dev.py bench gpu [--seconds 440] [--results FOLDER]

SDXL and SD 1.5 with random weights: AT-EDM at its three pruning points, peers and both stacked at 1024 px with
guidance, the pruning points at 2048 px and at batch 4, peak memory of all of these, the share that pruning itself
takes, ranking with and without the map. Parts run in the order of their weight, and none begins after `--seconds`; one
that fails is named and the next one runs. Results are written part by part; the table of all speed-ups is last.
"""

from __future__ import annotations

import argparse
import copy
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from .. import host
from ..measure import save
from ..pack.atedm_core.unet.settings import PRUNE_POINTS
from ..printing import show, times
from . import command, overhead, ranking, speed
from .contenders import peers, pruned, stacked, unpruned

SECONDS = 440


def speed_part(options: argparse.Namespace, size: int, batch: int, family: str, beside: bool) -> dict[str, Any]:
    """One comparison of `speed`, on a model of its own."""
    device = command.pick_device(options.device)
    model = host.random_model(family, getattr(torch, options.dtype), options.tiny)
    contenders = [unpruned(model), *pruned(model, options.ratio)]
    if beside:
        contenders += [*peers(model), *stacked(model, options.ratio)]
    asked = copy.copy(options)
    asked.batch = batch
    return {"batch": batch, "model": family, "rows": speed.measure(contenders, size, asked, device)}


def overhead_part(options: argparse.Namespace, size: int) -> dict[str, Any]:
    """The share of a step that pruning itself takes."""
    device = command.pick_device(options.device)
    model = host.random_model("sdxl", getattr(torch, options.dtype), options.tiny)
    return {"rows": [overhead.measure(model, point, size, options, device) for point in PRUNE_POINTS]}


def ranking_part(options: argparse.Namespace) -> dict[str, Any]:
    """Ranking with and without the attention map."""
    asked = copy.copy(options)
    asked.iterations = 1
    device, dtype = command.pick_device(options.device), getattr(torch, options.dtype)
    return {"levels": {name: ranking.measure(name, asked, device, dtype) for name in ranking.SHAPES}}


def parts(options: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """By name, what weighs most first."""
    small, large, half = (128, 192, 64) if options.tiny else (1024, 2048, 512)
    return {
        f"speed-sdxl-{small}px": lambda: speed_part(options, small, 1, "sdxl", beside=False),
        f"speed-sdxl-{large}px": lambda: speed_part(options, large, 1, "sdxl", beside=False),
        f"overhead-{small}px": lambda: overhead_part(options, small),
        f"beside-sdxl-{small}px": lambda: speed_part(options, small, 1, "sdxl", beside=True),
        f"speed-sdxl-{small}px-batch4": lambda: speed_part(options, small, 4, "sdxl", beside=False),
        f"speed-sd15-{half}px": lambda: speed_part(options, half, 1, "sd15", beside=True),
        "ranking": lambda: ranking_part(options),
    }


def summary(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of the last table: every speed-up measured, and what FLOPs allow."""
    rows = []
    for result in found.values():
        for row in result.get("rows", []):
            if "contender" not in row:
                continue
            size = f"{result['model']} {row['size']} px x {result['batch']}"
            peak = f"{row['peak_mib']:.0f}" if row["peak_mib"] else ""
            seconds, speed_up, ideal = f"{row['seconds']:.3f}", times(row["speed_up"]), times(row["ideal"])
            rows.append([size, row["contender"], seconds, speed_up, ideal, peak])
    return rows


def main() -> None:
    """Run the parts, save each, print the table last."""
    parser = command.parser(__doc__)
    parser.set_defaults(dtype="float16")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no part begins after this many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=speed.STEPS, help="of a run; the first is not timed")
    options = parser.parse_args()
    started = time.monotonic()
    device = command.pick_device(options.device)
    host.enter(device)
    where = command.where(options, device, rounds=options.rounds, steps=options.steps)
    found: dict[str, dict[str, Any]] = {}
    for name, part in parts(options).items():
        spent = time.monotonic() - started
        if spent > options.seconds:
            print(f"left out for want of time: {name}", flush=True)
            continue
        print(f"{spent:.0f} s: {name}", flush=True)
        try:
            found[name] = part()
        except Exception:
            traceback.print_exc()
            print(f"{name} failed", flush=True)
            continue
        save(command.results_folder(options) / f"{device.type}-{name}.json", {"machine": where, **found[name]})
        if device.type == "cuda":
            torch.cuda.empty_cache()
    for name, result in found.items():
        if name.startswith("overhead"):
            cells = [[row["point"], f"{row['share']:.1%}"] for row in result["rows"]]
            show("Share of a pruned step that pruning itself takes", ["tokens dropped", "share"], cells, {})
    columns = ["", "", "s/step", "speed-up", "FLOPs allow", "peak MiB"]
    show("Seconds per step beside the unpruned model", columns, summary(found), where)


if __name__ == "__main__":
    main()
