"""Forecasts, pruning and both beside fewer steps and the host's caches, at what each costs.

    python dev.py bench forecasts [--subject photographs] [--steps 8 20 50] [--samplers euler dpmpp_2m] [--captions 4]
                                  [--set confirm] [--methods auto "fewer steps"]

Latents of the demo model, or of the photographs' model, in ComfyUI's own sampler, as PSNR from the full run with the
same seed (peak: four standard
deviations of the full run's latent), and cost as a share of the full run's FLOPs on SDXL at 1024 px. Every row is kept
at once in benchmarks/out/forecasts, and the same command goes on after an interruption. Results and table go to
benchmarks/results/forecasts.json and docs/forecasts.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from rich.progress import track
from torch import Tensor

from devtools.layout import ROOT

from ... import peers
from ...measure import RESULTS, SCRATCH, machine, save
from ...pack.atedm_core.forecast_plan import ForecastSettings
from ...pack.atedm_core.unet.budget import share_left
from ...pack.atedm_core.unet.flops import unet_flops
from ...pack.atedm_core.unet.settings import DEFAULT_SETTINGS
from ...printing import markdown
from ..captions import BATCH, Caption, CaptionSet, Subject, batch, batches, on_subject
from ..cases import Sampling
from ..document import insert
from ..drawing import inputs_noted, noise_of, sigmas_of
from .cases import Pruning
from .flops import Tape, sdxl_flops
from .sdxl import SDXL_LATENT, SDXL_SCHEDULE, sdxl
from .session import Session, Watching

HERE = SCRATCH / "forecasts"
RESULT = RESULTS / "forecasts.json"
DOCUMENT = ROOT / "docs" / "forecasts.md"
COSTS = (0.75, 0.6, 0.5, 0.4, 0.3)
RATIOS = (0.4, 0.66, 0.82)
THRESHOLDS = {"easy_cache": (0.05, 0.1, 0.2, 0.35), "lazy_cache": (0.01, 0.03, 0.08)}
METHODS = ("fewer steps", "easy_cache", "lazy_cache", "AT-EDM", "forecasts", "auto")


@dataclass(frozen=True)
class Contender:
    """A way to draw the pictures of a run of `sampling` for less: `make` puts it on the model."""

    method: str
    setting: float
    sampling: Sampling
    make: Callable[[Any], Any] | None = None


def contenders(full: Sampling) -> Iterator[Contender]:
    """All that is compared with a full run, at what it costs there."""
    from ...pack.patches.steps.apply import apply_forecast
    from ...pack.patches.steps.auto import apply_auto
    from ...pack.patches.unet.apply import apply_atedm

    yield Contender("full", 1.0, full)
    for cost in COSTS:
        fewer = max(1, round(cost * full.steps))
        yield Contender("fewer steps", fewer, Sampling(fewer, full.cfg, full.sampler, full.scheduler, full.size))
        yield Contender("forecasts", cost, full, lambda model, at=cost: apply_forecast(model, ForecastSettings(at)))
        yield Contender("auto", 1 / cost, full, lambda model, at=cost: apply_auto(model, 1 / at, cost_of=sdxl_share))
    for ratio in RATIOS:
        schedule = replace(SDXL_SCHEDULE, prune_ratio=ratio)
        yield Contender("AT-EDM", ratio, full, lambda model, at=schedule: apply_atedm(model, at, DEFAULT_SETTINGS))
    for name, thresholds in THRESHOLDS.items():
        for threshold in thresholds:
            yield Contender(name, threshold, full, partial(getattr(peers, name), threshold=threshold))


def draw(session: Session, contender: Contender, captions: tuple[Caption, ...]) -> tuple[Tensor, float]:
    """Final latents `[B, C, h, w]` of one batch of captions, and the FLOPs of the same run on SDXL for a picture."""
    from ...pack.patches.unet.run import OBSERVERS_KEY

    sampling, tape = contender.sampling, Tape()
    model = (contender.make(session.model) if contender.make is not None else session.model).clone()
    model.model_options.setdefault("transformer_options", {})[OBSERVERS_KEY] = [Watching(tape)]
    noise = noise_of(captions, sampling.size // 8)
    first = session.model.model.diffusion_model.time_embed
    with torch.inference_mode(), inputs_noted(first, lambda given: tape.calls.append(given.shape[0])):
        texts = [one.text for one in captions]
        conditions = session.texts.conditioning(texts), session.texts.conditioning([""])
        sampler = session._sampler(sampling, noise, captions)
        latents = session._sample(model, noise, sampling, sampler, sigmas_of(session.model, sampling), conditions, None)
    return latents.float(), sdxl_flops(tape, Pruning()) / len(captions)


def sdxl_share(ratio: float) -> float:
    """What a prune ratio leaves of an evaluation's FLOPs on SDXL, which costs are counted on."""
    return share_left(sdxl(), SDXL_LATENT, ratio)


def psnr(latents: Tensor, full: Tensor) -> list[float]:
    """dB from the full run, a number for each picture; at most 100."""
    error = (latents - full).square().flatten(1).mean(1)
    peak = 4.0 * full.flatten(1).std(1)
    return (20 * peak.log10() - 10 * error.log10()).clamp(max=100.0).tolist()


def measure(
    session: Session,
    full: Sampling,
    place: tuple[CaptionSet, int],
    methods: Sequence[str],
    known: dict[str, Any],
    write: Callable[[Any], None],
) -> None:
    """The contenders of these methods on a batch of captions, at its place; those that are known are passed over."""
    name, number = place

    def key(contender: Contender) -> str:
        return json.dumps([name, full.sampler, full.steps, number, contender.method, round(contender.setting, 4)])

    todo = [one for one in contenders(full) if key(one) not in known and one.method in methods]
    if not todo:
        return
    captions = batch(name, number)
    reference = draw(session, next(contenders(full)), captions)[0]
    whole = 2 * full.steps * unet_flops(sdxl(), SDXL_LATENT)
    for contender in track(todo, f"{full.sampler}, {full.steps} steps, captions {number * BATCH + 1} on"):
        latents, flops = draw(session, contender, captions)
        row = {
            "key": key(contender),
            "captions": name,
            "sampler": full.sampler,
            "steps": full.steps,
            "method": contender.method,
        }
        write({**row, "setting": contender.setting, "share": flops / whole, "psnr": psnr(latents, reference)})


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each sampler, number of steps and cost: what every method reaches for no more than that."""
    lines = []
    for cell in dict.fromkeys(map(_cell, rows)):
        name, sampler, steps = cell
        own = [row for row in rows if _cell(row) == cell]
        for cost in COSTS:
            cells = [_best(own, method, cost + 0.5 / steps) for method in METHODS]
            lines.append([f"{name}: {sampler}, {steps} steps, {cost:.0%}", *cells])
    names = {"easy_cache": "EasyCache", "lazy_cache": "LazyCache", "auto": "AT-EDM Auto"}
    return markdown(["", *(names.get(one, one) for one in METHODS)], lines)


def _cell(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["captions"], row["sampler"], row["steps"]


def _best(rows: Sequence[dict[str, Any]], method: str, most: float) -> str:
    """The nearest of a method's settings that cost no more, as `dB (share)`."""
    found: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        if row["method"] == method:
            found.setdefault(row["setting"], []).append(row)
    reached = []
    for same in found.values():
        share = sum(row["share"] for row in same) / len(same)
        values = sorted(value for row in same for value in row["psnr"])
        if share <= most + 1e-6:
            reached.append((values[len(values) // 2] / 2 + values[(len(values) - 1) // 2] / 2, share))
    return f"{max(reached)[0]:.1f} ({max(reached)[1]:.0%})" if reached else ""


def main(arguments: Sequence[str]) -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="dev.py bench forecasts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subject", choices=get_args(Subject), default="shapes", help="what the pictures show")
    parser.add_argument("--set", choices=["choose", "confirm"], default="choose", help="captions")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 20, 50])
    parser.add_argument("--samplers", nargs="+", default=["euler", "dpmpp_2m", "dpmpp_2m_sde"])
    parser.add_argument("--captions", type=int, default=4, help=f"in batches of {BATCH}")
    parser.add_argument("--out", type=Path, default=HERE, help="where rows are kept")
    options = parser.parse_args(arguments)
    file = options.out / "rows.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    known = {row["key"]: row for row in rows}
    session, captions = Session.open(subject=options.subject), on_subject(options.set, options.subject)
    with file.open("a", encoding="utf-8") as target:

        def write(row: dict[str, Any]) -> None:
            known[row["key"]] = row
            target.write(json.dumps(row) + "\n")
            target.flush()

        for steps in options.steps:
            for sampler in options.samplers:
                for number in range(batches(options.captions)):
                    full = Sampling(steps, sampler=sampler)
                    measure(session, full, (captions, number), options.methods, known, write)
    found = list(known.values())
    save(RESULT, {"machine": machine(torch.device("cpu")), "rows": found})
    print(table(found))
    if DOCUMENT.exists():
        insert(DOCUMENT, {"forecasts": table(found)})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)
