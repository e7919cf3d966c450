"""`dev.py fuzz` in the host's Python: one configuration after the other until the time is over."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..layout import PACK_FOLDER, ROOT, current_host
from ..links import link_folder, make_base
from .checking import Violation, check
from .drawing import describe, draw_case

LOOK_FOR_RUNS = 50
SAY_EVERY = 30.0


def one(seed: int, host: Any) -> str:
    """How the configuration of a seed went: as `check` says, else what did not hold."""
    case = draw_case(seed, host)
    try:
        return check(case, host)
    except Violation as found:
        return f"VIOLATION: {found}\n  {dict(describe(case))}"
    except Exception:
        return f"VIOLATION: an exception\n{traceback.format_exc()}\n  {dict(describe(case))}"


def many(seeds: Callable[[], int | None], host: Any, say: Callable[[str], None]) -> tuple[Counter[str], list[int]]:
    """How often what happened, and the seeds of the configurations in which something did not hold."""
    from .traces import left_runs

    outcomes: Counter[str] = Counter()
    failed: list[int] = []
    told = time.monotonic()
    while (seed := seeds()) is not None:
        outcome = one(seed, host)
        outcomes[outcome.split(":")[0]] += 1
        if outcome.startswith("VIOLATION"):
            failed.append(seed)
            say(f"{outcome}\n  repeat it with: python dev.py fuzz --seed {seed}")
        if outcomes.total() % LOOK_FOR_RUNS == 0 and (left := left_runs(host)):
            failed.append(seed)
            say(f"VIOLATION: runs are left behind at or before seed {seed}: {sorted(set(left))}")
        if time.monotonic() - told > SAY_EVERY:
            told = time.monotonic()
            say(f"{outcomes.total()} configurations so far: {dict(outcomes)}")
    return outcomes, failed


def start_host() -> Any:
    """ComfyUI in this process with the pack loaded."""
    sys.path.insert(1, str(ROOT / "tests" / "host"))
    in_process = importlib.import_module("in_process")

    base = Path(tempfile.mkdtemp(prefix="atedm-fuzz-"))
    make_base(base)
    link_folder(base / "custom_nodes" / PACK_FOLDER, ROOT)
    in_process.enter_comfyui(current_host().comfyui, base)
    host = in_process.InProcessHost(base)
    host.load_pack(base / "custom_nodes" / PACK_FOLDER)
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    return host


def main(arguments: Sequence[str]) -> int:
    """Run configurations; 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="dev.py fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="for how long (default: 3)")
    parser.add_argument("--seed", type=int, help="run this one configuration only")
    parser.add_argument("--first", type=int, help="the seed to begin with (default: by the clock)")
    options = parser.parse_args(arguments)
    host = start_host()
    logging.disable(logging.WARNING)
    until = time.monotonic() + 60 * options.minutes
    first = options.first if options.first is not None else int(time.time()) * 1000
    if options.seed is not None:
        waiting = iter((options.seed,))
        outcomes, failed = many(lambda: next(waiting, None), host, print)
        print(dict(describe(draw_case(options.seed, host))))
    else:
        counting = iter(range(first, sys.maxsize))
        outcomes, failed = many(lambda: next(counting) if time.monotonic() < until else None, host, print)
        print(f"seeds {first} to {first + outcomes.total() - 1}")
    print(f"{outcomes.total()} configurations: {dict(outcomes)}")
    for seed in failed:
        print(f"FAILED, repeat it with: python dev.py fuzz --seed {seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
