"""Ranking tokens without the attention map against ranking with it: time and peak memory.

    python dev.py bench ranking [--rounds 5] [--iterations 1] [--device cpu] [--dtype float32]

Sizes are those of SDXL's attention levels at 1024 px with guidance: two samples each.
"""

from __future__ import annotations

import argparse
import json

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..measure import RESULTS, interleave, machine, peak_extra_bytes, pick_device, run_alone, save
from ..pack.atedm_core import gwpr

SHAPES = {"64 x 64 tokens": (2, 10, 4096, 64), "32 x 32 tokens": (2, 20, 1024, 64)}
MIB = 1 << 20


def dense_gwpr(q: Tensor, k: Tensor, iterations: int) -> Tensor:
    """What a ranking with the attention map does: build it, then multiply by it."""
    attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    scores = q.new_full((*q.shape[:-1], 1), 1.0 / q.shape[-2])
    for _ in range(iterations):
        scores = attention.transpose(-1, -2) @ scores
    return scores.squeeze(-1)


def inputs(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random queries and keys."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))
    return q, k


def peak_of(form: str, name: str, device: torch.device, dtype: torch.dtype, iterations: int) -> int:
    """Peak extra bytes of one ranking; meant to run in a process of its own."""
    q, k = inputs(SHAPES[name], device, dtype)
    # The first call on a device or dtype also tries the kernels and grows buffers that stay.
    gwpr(q[:1, :1, :64], k[:1, :1, :64])
    if form == "dense":
        return peak_extra_bytes(lambda: dense_gwpr(q, k, iterations), device)
    return peak_extra_bytes(lambda: gwpr(q, k, iterations=iterations), device)


def measure(name: str, options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """Time in interleaved pairs here, memory of each form in a process of its own."""
    q, k = inputs(SHAPES[name], device, dtype)
    with torch.inference_mode():
        pair = interleave(
            lambda: dense_gwpr(q, k, options.iterations),
            lambda: gwpr(q, k, iterations=options.iterations),
            options.rounds,
            device,
        )
        shared = ["--shape", name, "--device", str(device), "--dtype", options.dtype]
        shared += ["--iterations", str(options.iterations)]
        dense, free = (run_alone(__spec__.name, "--peak", form, *shared) for form in ("dense", "map-free"))
    return {
        "shape": SHAPES[name],
        "dense_seconds": pair.a,
        "map_free_seconds": pair.b,
        "speed_up": pair.ratio,
        "dense_peak_bytes": dense,
        "map_free_peak_bytes": free,
        "memory_share": free / dense,
    }


def show(results: dict[str, dict[str, object]], where: dict[str, object]) -> None:
    """One table, the machine under it."""
    table = Table(title="Ranking tokens by G-WPR: with the attention map and without it")
    for column in ("level", "with map", "map-free", "speed-up", "peak with map", "peak map-free", "share"):
        table.add_column(column, justify="left" if column == "level" else "right")
    for name, found in results.items():
        table.add_row(
            name,
            f"{found['dense_seconds']:.3f} s",
            f"{found['map_free_seconds']:.3f} s",
            f"{found['speed_up']:.2f}x",
            f"{found['dense_peak_bytes'] / MIB:.0f} MiB",  # type: ignore[operator]
            f"{found['map_free_peak_bytes'] / MIB:.0f} MiB",  # type: ignore[operator]
            f"{found['memory_share']:.1%}",
        )
    console = Console()
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in where.items()), style="dim")


def main() -> None:
    """Parse, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved pairs of timings")
    parser.add_argument("--iterations", type=int, default=1, help="G-WPR iterations")
    parser.add_argument("--device", help="default: the accelerator if there is one")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--peak", choices=["dense", "map-free"], help=argparse.SUPPRESS)
    parser.add_argument("--shape", choices=list(SHAPES), help="only this level")
    options = parser.parse_args()
    device, dtype = pick_device(options.device), getattr(torch, options.dtype)
    if options.peak:
        with torch.inference_mode():
            print(json.dumps(peak_of(options.peak, options.shape, device, dtype, options.iterations)))
        return
    names = [options.shape] if options.shape else list(SHAPES)
    results = {name: measure(name, options, device, dtype) for name in names}
    where = {**machine(device), "dtype": options.dtype, "iterations": options.iterations, "rounds": options.rounds}
    show(results, where)
    print(f"written to {save(RESULTS / 'ranking.json', {'machine': where, 'levels': results})}")


if __name__ == "__main__":
    main()
