"""How far CAT Pruning's pictures are from the unpruned ones, beside every simpler way to spend as little.

    python dev.py bench cat_fidelity [--subject photographs] [--groups "cat 20 steps" ...] [--set confirm]

Pictures of the demo's transformers. What is drawn is kept at once in benchmarks/out/cat_fidelity, and the same command
goes on after an interruption. Tables go to benchmarks/results/cat_fidelity, and into docs/cat_fidelity.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ...measure import SCRATCH
from ..captions import LARGEST_SET, Subject, on_subject
from ..store import Store
from ..sweep import bar, missing, run
from . import catalogue, report
from .session import Session, file_of

HERE = SCRATCH / "cat_fidelity"


def part_of(text: str) -> tuple[int, int]:
    """Which part, and of how many.

    >>> part_of("1/4")
    (1, 4)
    """
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal() or int(number) >= int(count):
        raise argparse.ArgumentTypeError(f"{text!r}: give I/N with I from 0 to N - 1, such as 0/2 and 1/2")
    return int(number), int(count)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dev.py bench cat_fidelity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subject", choices=get_args(Subject), default="shapes", help="what the pictures show")
    parser.add_argument("--groups", nargs="+", help="tables to make; default all")
    parser.add_argument("--set", choices=["choose", "confirm"], default="choose", help="captions")
    parser.add_argument("--captions", type=int, default=catalogue.COUNT, help="of every row")
    parser.add_argument(
        "--part", type=part_of, default="0/1", help="I/N: only every N-th batch, for N commands side by side"
    )
    parser.add_argument("--report", action="store_true", help="draw nothing: tables of what is there")
    parser.add_argument("--weights", type=Path, help="another transformer; nothing is written to the results")
    parser.add_argument("--out", type=Path, default=HERE, help="where what is drawn is kept")
    options = parser.parse_args(arguments)
    if not 1 <= options.captions <= LARGEST_SET:
        parser.error(f"--captions is {options.captions}: give 1 to {LARGEST_SET}")
    if options.weights is not None and not options.weights.is_file():
        parser.error(f"--weights is {options.weights}: there is no such file")
    known = catalogue.build()
    unknown = set(options.groups or ()) - set(known)
    if unknown:
        parser.error(f"no group is called {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run what is missing, then show and save the tables."""
    options = parse(arguments)
    groups = catalogue.build(on_subject(options.set, options.subject), options.captions)
    groups = {name: rows for name, rows in groups.items() if name in (options.groups or groups)}
    rows = [row for group in groups.values() for row in group]
    worker, workers = options.part
    store = Store(options.out / options.subject, f"{worker}")
    if not options.report and missing(rows, store, worker, workers):
        session = Session.open(options.weights, subject=options.subject)
        with bar(rows, store) as tell:
            run(rows, store, session, worker, workers, done=tell)
        store.reload()
    if workers > 1 and missing(rows, store):
        return 0
    found = report.collect(groups, store)
    for name, those in found.items():
        print(f"\n{name}\n\n{report.table({options.subject: those})}")
    if options.weights is None:
        report.save(options.subject, found, about(options.subject))
    return 0


def about(subject: Subject) -> dict[str, object]:
    """What a subject's transformer is, from its file."""
    from demo.transformer_store import read

    config, weights, training = read(file_of(subject))
    count = sum(weight.numel() for name, weight in weights.items() if name != "pos_embed")
    return {"weights": count, "blocks": config.blocks, "width": config.width, **training}


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)
