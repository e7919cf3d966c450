"""What the benchmarks of whole models have in common: their options, the model they run, and where they ran."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from .. import host
from ..measure import RESULTS, SCRATCH, machine, pick_device
from ..pack.atedm_core.unet.schedule import DEFAULT_RATIO
from .contenders import default_ranking

DTYPES = ("float32", "float16", "bfloat16")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark that runs a whole model."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--model", choices=["sdxl", "sd15"], default="sdxl")
    made.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    made.add_argument("--cfg", type=float, default=4.0, help="1 runs one condition, more runs two")
    made.add_argument("--ratio", type=float, default=DEFAULT_RATIO, help="prune_ratio of AT-EDM Apply")
    made.add_argument("--threads", type=int, help="of the CPU; default all")
    made.add_argument("--device", help="default: the accelerator if there is one")
    made.add_argument("--tiny", action="store_true", help="a tiny model and small pictures: shows that it runs")
    made.add_argument("--results", type=Path, help="folder to write to; default benchmarks/results, or out with --tiny")
    return made


def prepare(options: argparse.Namespace) -> tuple[torch.device, Any]:
    """The device, and the model with random weights in a ComfyUI of this process."""
    device = pick_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    host.enter(device)
    started = time.perf_counter()
    model = host.random_model(options.model, getattr(torch, options.dtype), options.tiny)
    print(f"{options.model} with random weights built in {time.perf_counter() - started:.0f} s", flush=True)
    return device, model


def where(options: argparse.Namespace, device: torch.device, **more: Any) -> dict[str, Any]:
    """What a result says about how it came about."""
    model = f"tiny {options.model}" if options.tiny else options.model
    ran = {"model": model, "dtype": options.dtype, "cfg": options.cfg, "prune_ratio": options.ratio}
    return {**machine(device), **ran, "attention": "PyTorch", "ranking": default_ranking(), **more}


def result_path(kind: str, options: argparse.Namespace, device: torch.device, *parts: str) -> Path:
    """Where a result goes, in a file that says what, of which model, on what kind of device, how."""
    model = f"tiny-{options.model}" if options.tiny else options.model
    name = "-".join([kind, model, device.type, options.dtype, f"cfg{options.cfg:g}", *parts])
    return results_folder(options) / f"{name}.json"


def results_folder(options: argparse.Namespace) -> Path:
    """The folder asked for; what tiny models give is not kept."""
    return options.results or (SCRATCH if options.tiny else RESULTS)
