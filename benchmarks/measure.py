"""Measuring on machines that are shared and noisy: interleaved pairs, medians of ratios, peak memory of one process."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

RESULTS = Path(__file__).resolve().parent / "results"
SCRATCH = RESULTS.parent / "out"
"""What is not kept, and ignored by git."""
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Pair:
    """Seconds of A and B, medians, and the median over rounds of A's time over B's."""

    a: float
    b: float
    ratio: float


def interleave(a: Callable[[], Any], b: Callable[[], Any], rounds: int, device: torch.device) -> Pair:
    """Time A and B in turns after one warm-up each; what disturbs one round disturbs both of its halves."""
    for work in (a, b):
        seconds(work, device)
    times = [(seconds(a, device), seconds(b, device)) for _ in range(rounds)]
    return Pair(
        statistics.median(t for t, _ in times),
        statistics.median(t for _, t in times),
        statistics.median(first / second for first, second in times),
    )


def seconds(work: Callable[[], Any], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call by a clock, by default the wall's, the device's queue included."""
    synchronize(device)
    start = clock()
    work()
    synchronize(device)
    return clock() - start


def synchronize(device: torch.device) -> None:
    """Wait for the device; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_extra_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """The most memory that one call of `work` holds beyond what was held before it.

    On a CUDA device it is the allocator's own count. Elsewhere a thread samples this process's resident size, so run
    it in a process of its own, where no freed memory is there to be used again.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    process = psutil.Process()
    before = process.memory_info().rss
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return peak[0] - before


def peak_tensor_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that tensors made by one call of `work` hold at once.

    On a CUDA device it is the allocator's own count. Elsewhere every operation is watched: exact and the same each
    time, without what a kernel borrows while it runs, and without what the process keeps of memory once freed.
    """
    if device.type == "cuda":
        return peak_extra_bytes(work, device)
    with TensorCount() as count:
        work()
    return count.peak


class TensorCount(TorchDispatchMode):
    """Bytes of the tensors made while it is active that are alive, at their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {key: held for key, held in self._alive.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out


def _tensors(found: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure has to say about where it was measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "commit": commit.stdout.strip() or "unknown",
    }


def processor_name() -> str:
    """The processor as its system calls it; Linux keeps the full name where `platform` does not look."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = named[0] if named else platform.processor() or platform.machine()
    # Half precision is several times as fast with it, so that weights, and not tokens, can be what takes time.
    amx = any("amx_tile" in line for line in lines if line.startswith("flags"))
    return f"{name} with AMX" if amx else name


def pick_device(name: str | None) -> torch.device:
    """The device called `name`, or the accelerator if there is one, or the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def run_alone(module: str, *arguments: str) -> Any:
    """Run `python -m module arguments` in a process of its own; the last line it prints is JSON, and is returned."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def rounded(value: Any) -> Any:
    """Six digits, in lists and dictionaries too: more than figures are worth, few enough to read what changed."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return value


def save(path: Path, result: dict[str, Any]) -> Path:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path
