"""TorchCompileModel with and without AT-EDM before it: seconds to compile, seconds per step after, and the picture.

    python dev.py bench compile [--tiny] [--backend inductor]

Each side compiles in a process of its own with an empty cache. The picture of the compiled model is compared with that
of the same model run without the compiler. The `inductor` backend needs a C++ compiler on a CPU, and Triton on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from typing import Any

import torch

from .. import host
from ..measure import run_alone, save, synchronize
from ..printing import show
from . import command
from .contenders import UNPRUNED, apply

PRUNED = "AT-EDM"
STEPS = 4
SIZE, TINY_SIZE = 512, 128


def measure(name: str, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """One side, in this process: what the first run costs beyond a later one, and how far its latent is off."""
    device, model = command.prepare(options)
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    plain = model if name == UNPRUNED else apply(model, options.ratio, "after first layer")

    def run(which: Any) -> tuple[torch.Tensor, float, list[float]]:
        synchronize(device)
        start = time.perf_counter()
        latent, steps = host.sample_latent(which, (size, size), STEPS, options.cfg, device)
        return latent, time.perf_counter() - start, steps

    expected, _, _ = run(plain)
    compiled = TorchCompileModel.execute(plain, options.backend)[0]
    latent, first, _ = run(compiled)
    again, later, steps = run(compiled)
    _, _, eager = run(plain)
    return {
        "contender": name,
        "compile_seconds": first - later,
        "step_seconds": statistics.median(steps),
        "eager_step_seconds": statistics.median(eager),
        "error": float((latent - expected).norm() / expected.norm()),
        "repeats": bool(torch.equal(latent, again)),
    }


def main() -> None:
    """Parse, measure, print, save."""
    parser = command.parser(__doc__)
    parser.add_argument("--size", type=int, help=f"edge in pixels; default {SIZE}")
    parser.add_argument("--backend", choices=["inductor", "cudagraphs"], default="inductor")
    parser.add_argument("--one", choices=[UNPRUNED, PRUNED], help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = options.size or (TINY_SIZE if options.tiny else SIZE)
    if options.one:
        print(json.dumps(measure(options.one, size, options)))
        return
    rows = []
    for name in (UNPRUNED, PRUNED):
        # Filled caches would make the second side, or the second run of this command, look quick.
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            rows.append(run_alone(__spec__.name, *sys.argv[1:], "--one", name))
        print(f"{name}: compiled in {rows[-1]['compile_seconds']:.0f} s", flush=True)
    share = rows[1]["compile_seconds"] / rows[0]["compile_seconds"]
    where = command.where(options, command.pick_device(options.device), backend=options.backend, size=size)
    cells = [
        [row["contender"]]
        + [f"{row[key]:.3g}" for key in ("compile_seconds", "step_seconds", "eager_step_seconds", "error")]
        for row in rows
    ]
    columns = ["", "compiles in s", "s/step", "s/step uncompiled", "relative error of the latent"]
    show(f"TorchCompileModel after AT-EDM: {share:.2f} times as long to compile", columns, cells, where)
    path = command.result_path("compile", options, command.pick_device(options.device), f"{size}px")
    print(f"written to {save(path, {'machine': where, 'rows': rows, 'compile_share': share})}")


if __name__ == "__main__":
    main()
