"""The paper's table on a real checkpoint: SDXL in full, ToMe and AT-EDM at the paper's FLOPs, the pack's own defaults.

    python dev.py bench checkpoint FILE --prompts FILE [--images DIR] [--server URL ...] [--out FOLDER]

An interrupted run goes on with the same command. docs/real_checkpoint.md says more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from demo.workflow import Sampling, Workflow
from devtools.console import DevError, say
from devtools.layout import current_host

from ..measure import SCRATCH, pick_device
from . import quality, table
from .checkpoint_file import Checkpoint, inspect
from .draw import Patience, draw_all
from .prompts import read_prompts
from .rows import BY_ID, TABLE, Plan, Row, not_settable, plan
from .servers import Drawn, Remote, addresses, check_all, own_server
from .store import Store
from .work import Picture, Work
from .workflows import PAPER_SAMPLING, picture

TIMEOUT = 1800.0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dev.py bench checkpoint", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="FILE", help="SDXL's .safetensors, or the demo model's")
    add("--prompts", type=Path, help="one a line in UTF-8, a JSON list, or COCO's captions_*.json")
    add("--count", type=int, help="of prompts, from the first on; default all")
    add("--images", type=Path, help="folder of real pictures, for FID")
    add("--server", action="append", default=[], metavar="URL", help="a running ComfyUI; may be given several times")
    add("--out", type=Path, help="default: benchmarks/out/paper/ and the checkpoint's name")
    add("--rows", nargs="+", choices=list(BY_ID), help="default all; the full model is always among them")
    add("--seed", type=int, default=0, help="of the first prompt; the next ones count up")
    default = PAPER_SAMPLING
    for name in ("steps", "cfg", "size", "sampler", "scheduler", "negative"):
        kind = type(getattr(default, name))
        add(f"--{name}", type=kind, help=f"default: {getattr(default, name)!r}, the demo model's own for that")
    add("--clip-model", default=quality.CLIP_MODEL, help="for the CLIP score (default: %(default)s)")
    add("--timeout", type=float, default=TIMEOUT, help="seconds a server may take for a picture (default: %(default)s)")
    add("--report", action="store_true", help="draw nothing: measures and table of what is there")
    options = parser.parse_args(arguments)
    if not options.report and options.prompts is None:
        parser.error("--prompts is missing: name a file with one prompt a line")
    for name, least in (("count", 1), ("steps", 1), ("cfg", 0), ("seed", 0), ("timeout", 1)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            parser.error(f"--{name} is {value}: give {least} or more")
    if options.size is not None and (options.size < 64 or options.size % 8):
        parser.error(f"--size is {options.size}: give a multiple of 8, 64 or more")
    return options


def run(options: argparse.Namespace, patience: Patience) -> int:
    """Draw what is missing, measure, show.

    Raises:
        DevError: something given is wrong, or no server is left.
    """
    checkpoint = inspect(options.checkpoint)
    images = quality.reference_images(options.images) if options.images else []
    prompts = [] if options.report else read_prompts(options.prompts, options.count)
    own = addresses(options.server)
    store = Store(options.out or SCRATCH / "paper" / options.checkpoint.stem)
    if quality.lacking():
        say(quality.lacking())
    given_up: dict[str, str] = {}
    if options.report and not store.manifest:
        raise DevError(f"{store.folder} holds no pictures yet: call without --report first.")
    if not options.report:
        with _addresses(own, checkpoint, store) as found:
            given_up = draw(options, checkpoint, prompts, found, store, patience)
    measure(store, images, options)
    return 1 if given_up else 0


@contextmanager
def _addresses(given: Sequence[str], checkpoint: Checkpoint, store: Store) -> Iterator[list[str]]:
    if given:
        yield list(given)
        return
    with own_server(current_host(), checkpoint, store.folder / "comfyui.log") as address:
        yield [address]


def draw(
    options: argparse.Namespace,
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    found: Sequence[str],
    store: Store,
    patience: Patience,
) -> dict[str, str]:
    """Draw every picture that is not there; returns rows given up, with the reason."""
    sampling = _sampling(options, checkpoint)
    remotes = [Remote(address, checkpoint, options.timeout) for address in found]
    check_all(remotes, sampling)
    say("Loading the checkpoint ...")
    began = time.monotonic()
    remotes[0].probe(sampling.size)
    say(f"  done after {time.monotonic() - began:.0f} s")
    plans = plan(_rows(options, remotes), remotes[0].apply_defaults)
    settings = _settings(checkpoint, sampling, prompts, plans, options.seed)
    offered = remotes[0].apply_defaults
    if any(one.row.method == "paper" for one in plans.values()) and not_settable(offered):
        settings["remarks"] = {"recipe": f"The paper's recipe, except: {'; '.join(not_settable(offered))}."}
    store.settle(settings)
    wanted = [Picture(row, i, options.seed + i) for i in range(len(prompts)) for row in plans]
    missing = [one for one in wanted if not store.has(one)]
    say(
        f"{len(wanted)} pictures: {len(plans)} rows of {len(prompts)} prompts, {len(missing)} of them to draw, "
        f"on {len(remotes)} server{'s' if len(remotes) > 1 else ''}."
    )
    if not missing:
        return {}

    def make(one: Picture, remote: Remote) -> Workflow:
        return picture(remote.loader, plans[one.row], sampling, prompts[one.index], one.seed)

    def keep(one: Picture, drawn: Drawn, remote: Remote) -> None:
        store.keep(one, drawn.png, {"seconds": drawn.seconds, "device": remote.device})

    with _bar("pictures", len(missing)) as (progress, task):

        def tell(line: str) -> None:
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

        work = Work(missing, found, tell)
        draw_all(work, remotes, sampling, make, keep, lambda n: progress.update(task, completed=n), patience)
    return work.given_up


def _sampling(options: argparse.Namespace, checkpoint: Checkpoint) -> Sampling:
    default = Sampling() if checkpoint.kind == "demo" else PAPER_SAMPLING
    given = {name: value for name in asdict(default) if (value := getattr(options, name, None)) is not None}
    return replace(default, **given)


def _rows(options: argparse.Namespace, remotes: Sequence[Remote]) -> list[Row]:
    rows = [row for row in TABLE if options.rows is None or row.id in options.rows or row.method == "full"]
    without = [remote.address for remote in remotes if not remote.has_tome]
    if without and any(row.method == "tome" for row in rows):
        say(f"Left out: ToMe: {', '.join(without)} lacks this benchmark's node for it (docs/real_checkpoint.md).")
        rows = [row for row in rows if row.method != "tome"]
    return rows


def _settings(
    checkpoint: Checkpoint, sampling: Sampling, prompts: Sequence[str], plans: dict[str, Plan], seed: int
) -> dict[str, Any]:
    return {
        "checkpoint": {"name": checkpoint.file.name, "bytes": checkpoint.size, "kind": checkpoint.kind},
        "sampling": asdict(sampling),
        "first_seed": seed,
        "rows": {name: one.told() for name, one in plans.items()},
        "prompts": {str(index): prompt for index, prompt in enumerate(prompts)},
    }


def measure(store: Store, images: Sequence[Path], options: argparse.Namespace) -> None:
    """Measure what is not measured yet, a picture or a row at a time, and show the table."""
    missing = table.to_compare(store)
    if missing:
        with _bar("distances", len(missing)) as (progress, task):
            for one in missing:
                table.compare(store, one)
                progress.advance(task)
    made, said = quality.scorers(images, options.clip_model, pick_device(None))
    for scorer in made:
        try:
            _score(store, scorer)
        except Exception as error:  # other people's models on other people's devices: the pictures are there
            said.append(f"{scorer.name.upper()} could not be measured: {type(error).__name__}: {error}")
    table.present(store, said)


def _score(store: Store, scorer: quality.Scorer) -> None:
    rows = table.to_score(store, scorer)
    if not rows:
        return
    total = sum(len(table.pictures_of(store, row.id)) for row in rows)
    with _bar(scorer.name.upper(), total) as (progress, task):
        for row in rows:
            table.score(store, scorer, row, lambda n: progress.advance(task, n))


@contextmanager
def _bar(what: str, total: int) -> Iterator[tuple[Progress, Any]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True)) as progress:
        yield progress, progress.add_task(what, total=total)


def main(arguments: Sequence[str], patience: Patience | None = None) -> int:
    """The command; errors meant for people are printed without a traceback."""
    try:
        return run(parse(arguments), patience or Patience())
    except DevError as error:
        print(f"\nStopped: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)
