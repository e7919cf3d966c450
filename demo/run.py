"""The demo: the same prompts and seeds with and without token pruning, through a real ComfyUI and its HTTP API.

`python dev.py demo` runs it with everything in place. Leaves pictures, maps of kept tokens and numbers in demo/out/.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atedm_core.unet.schedule import DEFAULT_RATIO
from devtools.commands import link_packs
from devtools.console import DevError, say
from devtools.layout import ROOT, STATE, Host, current_host
from devtools.links import link_folder
from devtools.server import Server

from . import pictures, report, timing
from .check import judge
from .scenes import parse
from .workflow import APPLY, Loader, Sampling, picture, sampling_only

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
CPU_THREADS = 1  # the model is small: one thread is nearly as fast, and its times do not depend on what else runs
PROMPTS = (
    "a large red circle in the upper left on a blue background",
    "a small yellow star in the center on a black background",
    "a large green triangle on the right on a white background",
    "a small pink heart at the bottom on a gray background",
    "a large orange ring in the lower right on a green background",
    "a small blue square at the top on a yellow background",
)


@dataclass(frozen=True)
class Settings:
    """What the demo runs."""

    prompts: Sequence[str] = PROMPTS
    seed: int = 7
    ratio: float = DEFAULT_RATIO
    repeats: int = 5
    sampling: Sampling = field(default_factory=Sampling)
    loader: Loader = field(default_factory=Loader)
    packs: Sequence[Path] = ()
    out: Path = OUT


@dataclass(frozen=True)
class Pair:
    """One prompt's two pictures and the record of the pruned run."""

    prompt: str
    seed: int
    full: Image.Image
    pruned: Image.Image
    record: dict[str, Any]


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


def _picture_of(server: Server, entry: dict[str, Any]) -> Image.Image:
    (found,) = entry["outputs"]["save"]["images"]
    return Image.open(io.BytesIO(server.view(found))).convert("RGB")


def make_pairs(server: Server, settings: Settings) -> list[Pair]:
    """Every prompt full and pruned, with the same seed."""
    pairs = []
    for index, prompt in enumerate(settings.prompts):
        seed, name = settings.seed + index, f"run-{index}"
        full = server.run(picture(settings.loader, settings.sampling, prompt, seed))
        pruned = server.run(picture(settings.loader, settings.sampling, prompt, seed, settings.ratio, name))
        record = json.loads((server.host.base / "output" / "recorded" / f"{name}.json").read_text(encoding="utf-8"))
        pairs.append(Pair(prompt, seed, _picture_of(server, full), _picture_of(server, pruned), record))
        say(f"  {index + 1} of {len(settings.prompts)}: {prompt}")
    return pairs


def _is_right(image: Image.Image, prompt: str) -> bool | None:
    """Whether the picture shows what the prompt says; None for prompts from outside the demo model's world."""
    try:
        scene = parse(prompt)
    except ValueError:
        return None
    if scene.shape is None:
        return None
    return bool(judge(np.asarray(image), scene)["right"])


def _describe(pair: Pair) -> dict[str, Any]:
    return {
        "prompt": pair.prompt,
        "seed": pair.seed,
        **report.distances(pair.full, pair.pruned),
        "full_is_right": _is_right(pair.full, pair.prompt),
        "pruned_is_right": _is_right(pair.pruned, pair.prompt),
    }


def _pruned_blocks(pair: Pair) -> list[dict[str, Any]]:
    return [block for block in pair.record["blocks"] if "grid" in block]


def draw(pairs: Sequence[Pair], out: Path) -> None:
    """Single pictures and the three contact sheets."""
    for index, pair in enumerate(pairs):
        pair.full.save(out / f"{index + 1}-full.png")
        pair.pruned.save(out / f"{index + 1}-pruned.png")
    labels = [f"{pair.prompt}, seed {pair.seed}" for pair in pairs]
    compared = []
    for pair in pairs:
        kept = pictures.mean_map(pair.pruned, _pruned_blocks(pair)) or pair.pruned
        compared.append([pair.full, pair.pruned, pictures.amplified_difference(pair.full, pair.pruned), kept])
    columns = ("without pruning", "with pruning", "difference x 4", "how often kept")
    pictures.sheet(compared, columns, labels).save(out / "side_by_side.png")
    names = [block["name"] for block in _pruned_blocks(pairs[0])]
    if names:
        maps = [[pictures.kept_map(p.pruned, b["grid"], b["kept_share"]) for b in _pruned_blocks(p)] for p in pairs]
        pictures.sheet(maps, names, labels, side=128).save(out / "kept_tokens.png")


def _machine(server: Server) -> str:
    stats = server.get("/system_stats")
    device = stats["devices"][0]["name"] if stats.get("devices") else "unknown device"
    system = stats["system"]
    place = f"{os.cpu_count()} cores, one used" if device == "cpu" else platform.machine()
    versions = f"torch {system['pytorch_version']}, ComfyUI {system['comfyui_version']}"
    return f"{device} ({place}), {platform.system()}, {versions}"


def _check_nodes(server: Server, settings: Settings) -> None:
    """A missing node is said at once and with the reason, not as a refused workflow."""
    known = server.get("/object_info")
    missing = [name for name in (settings.loader.node_id, APPLY) if name not in known]
    if missing:
        lines = [
            line for line in server.log().splitlines() if "Error" in line or "IMPORT FAILED" in line or "Cannot" in line
        ]
        raise DevError(f"ComfyUI does not know {', '.join(missing)}. From its log:\n" + "\n".join(lines[-20:]))


def run(settings: Settings, host: Host) -> dict[str, Any]:
    """Run everything and return the report, which lies in the output folder too."""
    if settings.out.exists():
        for old in (*settings.out.glob("*.png"), *settings.out.glob("summary.*")):
            old.unlink()
    settings.out.mkdir(parents=True, exist_ok=True)
    with own_base(settings.packs) as base:
        say("Starting ComfyUI ...")
        with Server(Host(host.comfyui, host.python, base), settings.out / "comfyui.log", threads=CPU_THREADS) as server:
            _check_nodes(server, settings)
            say(f"  up after {server.start_seconds:.1f} s at {server.address}\nPictures without and with pruning ...")
            pairs = make_pairs(server, settings)
            times: dict[str, object] = {}
            if settings.repeats > 0:
                say(f"Timing: {settings.repeats} pairs and one to warm up ...")
                times = timing.measure(server, _timed(settings), settings.ratio, settings.repeats).summary()
            machine = _machine(server)
    draw(pairs, settings.out)
    records = [pair.record for pair in pairs]
    result = report.build(
        settings.sampling, settings.ratio, machine, [_describe(pair) for pair in pairs], records, times
    )
    report.write(result, settings.out)
    return result


def _timed(settings: Settings) -> Any:
    prompt = settings.prompts[0]
    return lambda seed, ratio: sampling_only(settings.loader, settings.sampling, prompt, seed, ratio)


def parse_arguments(arguments: Sequence[str]) -> Settings:
    """The command line."""
    default = Settings()
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompt", action="append", help="may be given several times; default: six captions")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the first prompt; the next ones count up")
    parser.add_argument("--ratio", type=float, default=default.ratio, help="prune_ratio (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=default.sampling.steps)
    parser.add_argument("--cfg", type=float, default=default.sampling.cfg)
    parser.add_argument("--size", type=int, default=default.sampling.size, help="width and height in pixels")
    parser.add_argument("--repeats", type=int, default=default.repeats, help="timed pairs; 0 leaves timing out")
    parser.add_argument("--out", type=Path, default=default.out, help="where the results go")
    given = parser.parse_args(arguments)
    sampling = Sampling(steps=given.steps, cfg=given.cfg, size=given.size)
    return Settings(given.prompt or default.prompts, given.seed, given.ratio, given.repeats, sampling, out=given.out)


def main(arguments: Sequence[str]) -> int:
    """Run the demo and print its table."""
    settings = parse_arguments(arguments)
    try:
        result = run(settings, current_host())
    except DevError as error:
        print(f"\nStopped: {error}", file=sys.stderr)
        return 1
    shown = settings.out if not settings.out.is_relative_to(ROOT) else settings.out.relative_to(ROOT)
    say(f"\n{report.as_text(result)}")
    say(f"In {shown}: side_by_side.png, kept_tokens.png, summary.txt, summary.json and the single pictures.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
