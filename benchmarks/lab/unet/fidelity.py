"""How far pruned pictures are from the unpruned ones, beside every simpler way to spend as little.

    python dev.py bench fidelity [--subject photographs] [--groups main selection ...] [--captions 64] [--workers 2]
    python dev.py bench fidelity --quick

Pictures of the demo model, or of the photographs' model, in ComfyUI's own sampler. What is drawn and measured is kept
at once in benchmarks/out/fidelity, and the same command goes on after an interruption. Tables and plots go to
benchmarks/results/fidelity, and the tables into docs/fidelity.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from ...measure import SCRATCH
from ..captions import LARGEST_SET, Subject, on_subject
from ..cases import Row
from ..store import Store
from ..sweep import bar, missing, run, run_in_processes
from . import catalogue, report, timing
from .session import Session

HERE = SCRATCH / "fidelity"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="dev.py bench fidelity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subject", choices=get_args(Subject), default="shapes", help="what the pictures show")
    parser.add_argument("--groups", nargs="+", help="experiments to run; default all")
    parser.add_argument("--captions", type=int, help="of every table; default: 64, 24 or 8, the main table having most")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="a few rows on 4 captions, printed only")
    parser.add_argument("--fresh", action="store_true", help="draw pruned pictures anew, as after a change of the pack")
    parser.add_argument("--report", action="store_true", help="draw nothing: tables and plots of what is there")
    parser.add_argument("--time", action="store_true", help="only time pictures, in turns; wants a quiet machine")
    parser.add_argument("--out", type=Path, default=HERE, help="where what is drawn is kept")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.captions is not None and not 1 <= options.captions <= LARGEST_SET:
        parser.error(f"--captions is {options.captions}: give 1 to {LARGEST_SET}")
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}: give 1 or more")
    return options


def chosen(options: argparse.Namespace, session: Session) -> dict[str, list[Row]]:
    """The rows to run, by group.

    Raises:
        ValueError: a group that there is not.
    """
    groups = catalogue.build(session.progress, catalogue.Sizes())
    if options.quick:
        groups = catalogue.quick(groups)
    unknown = set(options.groups or ()) - set(groups)
    if unknown:
        raise ValueError(f"no group is called {', '.join(sorted(unknown))}: choose from {', '.join(groups)}")
    found = {name: rows for name, rows in groups.items() if name in (options.groups or groups)}

    def asked_for(row: Row) -> Row:
        captions = on_subject(row.captions, options.subject)
        return replace(row, captions=captions, count=options.captions or row.count)

    return {name: [asked_for(row) for row in rows] for name, rows in found.items()}


def main(arguments: Sequence[str]) -> int:
    """Run what is missing, then show and save the tables."""
    options = parse(arguments)
    worker, workers = (int(number) for number in (options.part or "0/1").split("/"))
    try:
        store = Store(options.out / options.subject, str(worker))
        if not options.quick:
            report.prepare()
    except OSError as error:
        print(f"\nStopped: {error.filename or options.out} cannot be written: {error}", file=sys.stderr)
        return 1
    session = Session.open(subject=options.subject)
    if options.time:
        report.save_times(timing.measure(session))
        return 0
    try:
        groups = chosen(options, session)
    except ValueError as error:
        print(f"\nStopped: {error}", file=sys.stderr)
        return 2
    rows = [row for group in groups.values() for row in group]
    if options.part:
        run(rows, store, session, worker, workers)
        return 0
    if options.fresh:
        store.forget(row.case for row in rows if not row.case.unpruned)
    if not options.report and missing(rows, store):
        if options.workers > 1:
            passed = [one for one in arguments if one != "--fresh"]
            run_in_processes(__spec__.name, rows, store, options.workers, passed)
        else:
            with bar(rows, store) as tell:
                run(rows, store, session, done=tell)
    report.show(groups, store)
    if not options.quick:
        report.save(groups, store, session)
    return 0


if __name__ == "__main__":
    # so that a killed sweep takes its workers along
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)
