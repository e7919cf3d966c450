"""AT-EDM Auto on the noise schedules that people choose, beside fewer steps of the same cost.

    python dev.py bench schedules [--subject photographs] [--set confirm] [--captions 4] [--steps 20]

`normal` has a map of its own (`bench forecasts`). Where a schedule puts its steps decides which of them can be left
out; karras and exponential are also run over SDXL's noise levels, as the photographs' model has zero-terminal SNR and
spends half of their steps on pure noise. What is drawn is kept at once in benchmarks/out/schedules, and the same
command goes on after an interruption. The table goes to benchmarks/results/schedules.json and docs/forecasts.md.
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
from typing import get_args

import torch
from rich.progress import track

from ...measure import RESULTS, SCRATCH, machine, save
from ...printing import markdown
from ..captions import BATCH, CaptionSet, Subject, batch, batches, on_subject
from ..cases import Sampling
from ..document import insert
from .contenders import Contender, sdxl_share
from .forecast_rows import Row, Rows
from .forecasts import DOCUMENT, draw, psnr
from .session import Session

HERE = SCRATCH / "schedules"
RESULT = RESULTS / "schedules.json"
SCHEDULES = ("karras of SDXL", "exponential of SDXL", "karras", "exponential", "sgm_uniform", "simple", "beta")
SAMPLERS = ("euler", "dpmpp_2m", "dpmpp_2m_sde")
SPEED_UPS = (1.6, 2.0, 3.0)
AUTO, FEWER = "AT-EDM Auto", "fewer steps"


def contenders(full: Sampling) -> Iterator[Contender]:
    """At each speed-up Auto, and as many steps as its cost pays for, to the nearest whole number."""
    from ...pack.patches.steps.auto import apply_auto

    for one in SPEED_UPS:
        yield Contender(AUTO, one, full, lambda model, at=one: apply_auto(model, at, cost_of=sdxl_share))
        yield Contender(FEWER, one, replace(full, steps=max(1, round(full.steps / one))))


def measure(session: Session, captions: CaptionSet, full: Sampling, number: int, rows: Rows) -> None:
    """The contenders on a batch of captions; those that are known are passed over."""

    def key(one: Contender) -> str:
        return json.dumps([captions, full.scheduler, full.sampler, full.steps, number, one.method, one.setting])

    todo = [one for one in contenders(full) if key(one) not in rows]
    if not todo:
        return
    drawn = batch(captions, number)
    reference, whole = draw(session, Contender("full", 1.0, full), drawn)
    for one in todo:
        latents, flops = draw(session, one, drawn)
        place = {"captions": captions, "scheduler": full.scheduler, "sampler": full.sampler, "steps": full.steps}
        measured = {"share": flops / whole, "psnr": psnr(latents, reference)}
        rows.add({"key": key(one), **place, "method": one.method, "setting": one.setting, **measured})


def table(rows: Sequence[Row], captions: str = "photographs, confirm") -> str:
    """A line for each schedule, sampler and number of steps: Auto and fewer steps at every speed-up."""
    own = [row for row in rows if row["captions"] == captions]
    lines = []
    for schedule, sampler, steps in product(SCHEDULES, SAMPLERS, sorted({row["steps"] for row in own})):
        found = [row for row in own if (row["scheduler"], row["sampler"], row["steps"]) == (schedule, sampler, steps)]
        if found:
            told = [_told(found, method, one) for one in SPEED_UPS for method in (AUTO, FEWER)]
            lines.append([f"{schedule}, {sampler}, {steps} steps", *told])
    head = [f"{method}, {one:g}x" for one in SPEED_UPS for method in ("Auto", FEWER)]
    return markdown(["", *head], lines)


def summary(rows: Sequence[Row], captions: str = "photographs, confirm") -> str:
    """How Auto compares with fewer steps over all lines, in a sentence."""
    known = {row["key"]: row for row in rows if row["captions"] == captions}
    pairs = [(row, known.get(_key_of_fewer(row))) for row in known.values() if row["method"] == AUTO]
    gains = [median(auto["psnr"]) - median(fewer["psnr"]) for auto, fewer in pairs if fewer is not None]
    if not gains:
        return "Nothing was measured."
    nearer = sum(gain > 0 for gain in gains)
    return (
        f"Auto is nearer than fewer steps in {nearer} of {len(gains)} cells: by {median(gains):.1f} dB in the median, "
        f"{min(gains):.1f} in the worst."
    )


def _key_of_fewer(auto: Row) -> str:
    place = json.loads(auto["key"])
    place[-2] = FEWER
    return json.dumps(place)


def _told(rows: Sequence[Row], method: str, setting: float) -> str:
    own = [row for row in rows if (row["method"], row["setting"]) == (method, setting)]
    if not own:
        return ""
    return f"{median(one for row in own for one in row['psnr']):.1f} dB ({fmean(row['share'] for row in own):.0%})"


def main(arguments: Sequence[str]) -> int:
    """Measure what is missing, print, save."""
    parser = argparse.ArgumentParser(prog="dev.py bench schedules", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subject", choices=get_args(Subject), default="photographs", help="what the pictures show")
    parser.add_argument("--set", choices=["choose", "confirm"], default="confirm", help="captions")
    parser.add_argument("--captions", type=int, default=4, help=f"in batches of {BATCH}; 0 writes what there is")
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--schedules", nargs="+", default=SCHEDULES, choices=SCHEDULES)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=SAMPLERS)
    parser.add_argument("--out", type=Path, default=HERE, help="where rows are kept")
    options = parser.parse_args(arguments)
    rows, captions = Rows(RESULT, options.out / "rows.jsonl"), on_subject(options.set, options.subject)
    places = list(product(options.steps, options.schedules, options.samplers, range(batches(options.captions))))
    session = Session.open(subject=options.subject) if places else None
    for steps, schedule, sampler, number in track(places, "schedules, samplers and batches of captions"):
        assert session is not None
        measure(session, captions, Sampling(steps, sampler=sampler, scheduler=schedule), number, rows)
    found = rows.all()
    save(RESULT, {"machine": machine(torch.device("cpu")), "rows": found})
    told = {"schedules": table(found), "schedules_summary": summary(found)}
    insert(DOCUMENT, told, shared=True)
    print("\n\n".join(told.values()))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)
