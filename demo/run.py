"""The demo: the same prompts and seeds in full, with AT-EDM and with AT-EDM Auto, through a real ComfyUI's HTTP API.

`python dev.py demo` runs it with everything in place. It draws with a small model that comes with this repository,
beside as many fewer steps as cost the same, and times layers of a real SDXL on this machine. Leaves pictures that carry
their workflow, maps of kept tokens and numbers in demo/out/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atedm_core.unet.schedule import DEFAULT_RATIO
from devtools.commands import link_packs
from devtools.console import DevError, say
from devtools.layout import ROOT, STATE, Host, current_host
from devtools.links import link_folder
from devtools.server import Server, server_environment

from . import report, show
from .drawing import Task, draw_all
from .timing import duration
from .ways import AUTO
from .workflow import APPLY, RECORD, Loader, Sampling

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
CPU_THREADS = 1  # with one, processor time is what a run takes on a machine with nothing else to do
SECONDS = 165.0  # for everything, on a machine of two cores; drawing gets what SDXL's layers leave
SDXL_SECONDS = 45.0
SPEED_UP = 2.0
PROMPTS = {
    "photographs": (
        "a large red mushroom in the center on a green background",
        "a large black wheel on the right on a gray background",
        "a large orange planet in the center on a black background",
        "a small yellow lemon in the upper right on a green background",
    ),
    "shapes": (
        "a large red circle in the upper left on a blue background",
        "a small yellow star in the center on a black background",
        "a large green triangle on the right on a white background",
    ),
}


@dataclass(frozen=True)
class Settings:
    """What the demo runs, and for how long at most."""

    prompts: Sequence[str] = PROMPTS["photographs"]
    seed: int = 7
    ratio: float = DEFAULT_RATIO
    speed_up: float = SPEED_UP
    sampling: Sampling = field(default_factory=lambda: Sampling(batch=4))
    loader: Loader = field(default_factory=lambda: Loader(inputs={"model": "photographs"}))
    seconds: float = SECONDS
    sdxl: bool = True
    packs: Sequence[Path] = ()
    out: Path = OUT

    @property
    def task(self) -> Task:
        """What is to be drawn."""
        return Task(self.loader, self.sampling, self.prompts, self.seed, self.ratio, self.speed_up)


@contextmanager
def own_base(packs: Sequence[Path]) -> Iterator[Path]:
    """A base folder for this run alone, with every pack linked in; gone afterwards."""
    STATE.mkdir(exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="demo-", dir=STATE))
    try:
        link_packs(base, demo=True)
        link_folder(base / "custom_nodes" / "at-edm-demo-recorder", HERE / "recorder")
        for pack in packs:
            link_folder(base / "custom_nodes" / pack.name, pack)
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _machine(server: Server) -> report.Machine:
    stats = server.get("/system_stats")
    device = stats["devices"][0]["name"] if stats.get("devices") else "unknown device"
    on_cpu = device == "cpu"
    place = f"CPU, {os.cpu_count()} cores, {platform.machine()}" if on_cpu else device
    system = stats["system"]
    versions = f"torch {system['pytorch_version']}, ComfyUI {system['comfyui_version']}"
    return report.Machine(f"{place}, {platform.system()}, {versions}", on_cpu)


def _check_nodes(server: Server, settings: Settings) -> None:
    """A missing node is said at once and with the reason, not as a refused workflow."""
    known = server.get("/object_info")
    missing = [name for name in (settings.loader.node_id, APPLY, AUTO, RECORD) if name not in known]
    if missing:
        lines = [
            line for line in server.log().splitlines() if "Error" in line or "IMPORT FAILED" in line or "Cannot" in line
        ]
        raise DevError(f"ComfyUI does not know {', '.join(missing)}. From its log:\n" + "\n".join(lines[-20:]))


def time_sdxl(ratio: float, seconds: float, on_cpu: bool) -> dict[str, Any] | None:
    """What `demo.sdxl` finds, in a process of its own; `None`, and why, where it fails: the pictures stand."""
    command = [sys.executable, "-m", "demo.sdxl", "--seconds", f"{seconds:.0f}", "--ratio", str(ratio)]
    command += ["--cpu"] if on_cpu else []
    lines: list[str] = []
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=server_environment(on_cpu), stdout=subprocess.PIPE, stderr=errors, encoding="utf-8"
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith(" "):
                say(line.rstrip())
        code = process.wait()
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if code != 0 or not lines:
        say(f"  SDXL's layers could not be timed here: {said[-1] if said else f'it ended with code {code}'}")
        return None
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def run(settings: Settings, host: Host) -> dict[str, Any]:
    """Run everything and return the report, which lies in the output folder too."""
    began = time.monotonic()
    show.clear(settings.out)
    after = SDXL_SECONDS if settings.sdxl else 0.0
    with own_base(settings.packs) as base:
        say("Starting ComfyUI ...")
        with Server(Host(host.comfyui, host.python, base), settings.out / "comfyui.log", threads=CPU_THREADS) as server:
            _check_nodes(server, settings)
            say(f"  up after {server.start_seconds:.1f} s. Ctrl-C stops everything at any time.")
            say("Drawing, and timing what is drawn ...")
            for_drawing = settings.seconds - after - (time.monotonic() - began)
            rows = draw_all(server, settings.task, for_drawing, after)
            machine = _machine(server)
    show.save(rows, settings.task, settings.out)
    sdxl = None
    if settings.sdxl:
        say(f"Timing SDXL's layers at 1024 px, in full and pruned: up to {duration(SDXL_SECONDS)} ...")
        try:
            sdxl = time_sdxl(settings.ratio, SDXL_SECONDS, machine.on_cpu)
        except KeyboardInterrupt:
            say("  Interrupted: SDXL is left out.")
    result = report.build(settings.task, rows, machine, sdxl)
    report.write(result, settings.out)
    return result


def parse_arguments(arguments: Sequence[str]) -> Settings:
    """The command line."""
    default = Settings()
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=list(PROMPTS), default="photographs", help="which of the bundled models")
    parser.add_argument("--prompt", action="append", help="may be given several times; default: its own captions")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the first prompt; the next ones count up")
    parser.add_argument("--ratio", type=float, default=default.ratio, help="AT-EDM's prune_ratio (%(default)s)")
    parser.add_argument("--speed-up", type=float, default=default.speed_up, help="asked of AT-EDM Auto (%(default)s)")
    parser.add_argument("--steps", type=int, default=default.sampling.steps)
    parser.add_argument("--cfg", type=float, default=default.sampling.cfg)
    parser.add_argument("--size", type=int, default=default.sampling.size, help="width and height in pixels")
    parser.add_argument("--batch", type=int, default=default.sampling.batch, help="pictures of each prompt, at once")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="for everything; prompts are left out")
    parser.add_argument("--no-sdxl", action="store_true", help="leave the timing of SDXL's layers out")
    parser.add_argument("--out", type=Path, default=default.out, help="where the results go")
    given = parser.parse_args(arguments)
    return Settings(
        prompts=given.prompt or PROMPTS[given.model],
        seed=given.seed,
        ratio=given.ratio,
        speed_up=given.speed_up,
        sampling=Sampling(steps=given.steps, cfg=given.cfg, size=given.size, batch=given.batch),
        loader=Loader(inputs={"model": given.model}),
        seconds=given.seconds,
        sdxl=not given.no_sdxl,
        out=given.out,
    )


def main(arguments: Sequence[str]) -> int:
    """Run the demo and print its table."""
    settings = parse_arguments(arguments)
    try:
        result = run(settings, current_host())
    except DevError as error:
        print(f"\nStopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted before the pictures were done. One --prompt makes it shorter.", file=sys.stderr)
        return 130
    shown = settings.out if not settings.out.is_relative_to(ROOT) else settings.out.relative_to(ROOT)
    say(
        f"\nPictures: {shown / 'side_by_side.png'}, {shown / 'kept_tokens.png'} and single ones in "
        f"{shown / show.SINGLE}.\nThose carry their workflow: drop one into ComfyUI "
        "(`python dev.py host --demo-model` starts one that has this model).\n"
    )
    say(report.as_text(result).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
