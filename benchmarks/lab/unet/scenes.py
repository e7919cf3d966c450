"""Whether AT-EDM Auto's pictures still show the same scene at high speed-ups, beside fewer steps of the same cost.

    python dev.py bench scenes [--subject photographs] [--captions 16]

3 times as fast at 50 steps, 2 times at 20, 1.5 times at 8, by FLOPs on SDXL at 1024 px, on captions to confirm by.
Every batch is kept at once in benchmarks/out/scenes, and the same command goes on after an interruption. The table goes
to benchmarks/results/scenes.json and docs/forecasts.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any, get_args

import torch
from rich.progress import track

from ...measure import RESULTS, SCRATCH, machine, save
from ...printing import markdown
from ..captions import BATCH, Subject, batch, batches, on_subject
from ..cases import Sampling
from ..document import insert
from ..drawing import decoded
from ..measures import compare
from .contenders import Contender, sdxl_share
from .forecasts import DOCUMENT, draw
from .session import Session

HERE = SCRATCH / "scenes"
RESULT = RESULTS / "scenes.json"
SPEED_UPS = {50: 3.0, 20: 2.0, 8: 1.5}
"""By steps of the run."""
SAMPLERS = ("euler", "dpmpp_2m")
AUTO, FEWER = "AT-EDM Auto", "fewer steps"

Row = dict[str, Any]


def contenders(full: Sampling) -> Iterator[Contender]:
    """Auto, and as many steps as its cost pays for, to the nearest whole number."""
    from ...pack.patches.steps.auto import apply_auto

    speed_up = SPEED_UPS[full.steps]
    yield Contender(AUTO, speed_up, full, lambda model: apply_auto(model, speed_up, cost_of=sdxl_share))
    yield Contender(FEWER, speed_up, replace(full, steps=round(full.steps / speed_up)))


def measure(session: Session, subject: Subject, full: Sampling, number: int) -> Iterator[Row]:
    """A row for every contender on a batch of captions."""
    captions = batch(on_subject("confirm", subject), number)
    reference, whole = draw(session, Contender("full", 1.0, full), captions)
    truth = decoded(session.vae, reference).numpy()
    for one in contenders(full):
        latents, flops = draw(session, one, captions)
        pictures = decoded(session.vae, latents).numpy()
        given = zip(pictures, latents.numpy(), truth, reference.numpy(), [one.scene for one in captions], strict=True)
        found = [compare(*picture) for picture in given]
        yield {
            "subject": subject,
            "sampler": full.sampler,
            "steps": full.steps,
            "number": number,
            "method": one.method,
            "share": flops / whole,
            "psnr": [measures["psnr"] for measures in found],
            "same_scene": [bool(measures["same_scene"]) for measures in found],
        }


def table(rows: Sequence[Row]) -> str:
    """One line for each subject, sampler and number of steps."""
    lines = []
    for subject, sampler, steps in product(get_args(Subject), SAMPLERS, SPEED_UPS):
        own = [row for row in rows if (row["subject"], row["sampler"], row["steps"]) == (subject, sampler, steps)]
        if own:
            told = [_told([row for row in own if row["method"] == method]) for method in (AUTO, FEWER)]
            captions = sum(len(row["psnr"]) for row in own if row["method"] == AUTO)
            lines.append([f"{subject}: {sampler}, {steps} steps, {SPEED_UPS[steps]:g}x", str(captions), *told])
    return markdown(["", "captions", AUTO, FEWER], lines)


def _told(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    same = [one for row in rows for one in row["same_scene"]]
    nearness = median(one for row in rows for one in row["psnr"])
    return f"{sum(same)} of {len(same)}, {nearness:.1f} dB ({fmean(row['share'] for row in rows):.0%})"


def main(arguments: Sequence[str]) -> int:
    """Measure what is missing, print, save."""
    parser = argparse.ArgumentParser(prog="dev.py bench scenes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subject", choices=get_args(Subject), default="photographs", help="what the pictures show")
    parser.add_argument("--captions", type=int, default=16, help=f"in batches of {BATCH}; 0 writes what there is")
    parser.add_argument("--out", type=Path, default=HERE, help="where rows are kept")
    options = parser.parse_args(arguments)
    file = options.out / "rows.jsonl"
    rows = [] if not RESULT.exists() else json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    rows += [] if not file.exists() else [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    known = {place(row): row for row in rows}
    todo = [
        (Sampling(steps, sampler=sampler), number)
        for number, sampler, steps in product(range(batches(options.captions)), SAMPLERS, SPEED_UPS)
        if (options.subject, sampler, steps, number, FEWER) not in known
    ]
    session = Session.open(subject=options.subject) if todo else None
    for full, number in track(todo, "batches of captions"):
        assert session is not None
        for row in measure(session, options.subject, full, number):
            known[place(row)] = row
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as kept:
                kept.write(json.dumps(row) + "\n")
    found = [*known.values()]
    save(RESULT, {"machine": machine(torch.device("cpu")), "rows": found})
    insert(DOCUMENT, {"scenes": table(found)}, shared=True)
    print(table(found))
    return 0


def place(row: Row) -> tuple[str, str, int, int, str]:
    """What makes a row the same as another."""
    return row["subject"], row["sampler"], row["steps"], row["number"], row["method"]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)
