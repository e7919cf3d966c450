"""Forecasts, pruning and both beside fewer steps and others' caches, at what each costs.

    python dev.py bench forecasts [--subject photographs] [--steps 8 20 50] [--samplers euler dpmpp_2m] [--captions 4]
                                  [--set confirm] [--methods auto "fewer steps"] [--again auto]

Latents of the demo model, or of the photographs' model, in ComfyUI's own sampler, as PSNR from the full run with the
same seed (peak: four standard deviations of the full run's latent), and cost as a share of the full run's FLOPs on SDXL
at 1024 px. The command goes on from the rows in benchmarks/results/forecasts.json and, after an interruption, from
those kept at once in benchmarks/out/forecasts; `--again` measures the rows of methods anew that have changed since.
Results, table and summary go to benchmarks/results/forecasts.json and docs/forecasts.md; `--captions 0` measures
nothing and writes them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import get_args

import torch
from rich.progress import track
from torch import Tensor

from devtools.layout import ROOT

from ...measure import RESULTS, SCRATCH, machine, save
from ...pack.atedm_core.unet.flops import unet_flops
from ..captions import BATCH, Caption, CaptionSet, Subject, batch, batches, on_subject
from ..cases import Sampling
from ..document import insert
from ..drawing import inputs_noted, noise_of, sigmas_of
from .caches import TAPE_KEY, share_to_gate
from .cases import Pruning
from .contenders import METHODS, Contender, contenders
from .flops import Tape, sdxl_flops
from .forecast_rows import Rows
from .nearest import SAMPLERS, cells, summary, table
from .sdxl import SDXL_LATENT, sdxl
from .session import Session, Watching

HERE = SCRATCH / "forecasts"
RESULT = RESULTS / "forecasts.json"
DOCUMENT = ROOT / "docs" / "forecasts.md"


def draw(session: Session, contender: Contender, captions: tuple[Caption, ...]) -> tuple[Tensor, float]:
    """Final latents `[B, C, h, w]` of one batch of captions, and the FLOPs of the same run on SDXL for a picture."""
    from ...pack.patches.unet.run import OBSERVERS_KEY

    sampling, tape = contender.sampling, Tape()
    model = (contender.make(session.model) if contender.make is not None else session.model).clone()
    options = model.model_options.setdefault("transformer_options", {})
    options[OBSERVERS_KEY], options[TAPE_KEY] = [Watching(tape)], tape
    noise = noise_of(captions, sampling.size // 8)
    first = session.model.model.diffusion_model.time_embed
    with torch.inference_mode(), inputs_noted(first, lambda given: tape.calls.append(given.shape[0])):
        texts = [one.text for one in captions]
        conditions = session.texts.conditioning(texts), session.texts.conditioning([""])
        sampler = session._sampler(sampling, noise, captions)
        latents = session._sample(model, noise, sampling, sampler, sigmas_of(session.model, sampling), conditions, None)
    begun = sum(tape.begun) * share_to_gate() * unet_flops(sdxl(), SDXL_LATENT)
    return latents.float(), (sdxl_flops(tape, Pruning()) + begun) / len(captions)


def psnr(latents: Tensor, full: Tensor) -> list[float]:
    """dB from the full run, a number for each picture; at most 100."""
    error = (latents - full).square().flatten(1).mean(1)
    peak = 4.0 * full.flatten(1).std(1)
    return (20 * peak.log10() - 10 * error.log10()).clamp(max=100.0).tolist()


def measure(
    session: Session, full: Sampling, place: tuple[CaptionSet, int], methods: Sequence[str], rows: Rows
) -> None:
    """The contenders of these methods on a batch of captions, at its place; those that are known are passed over."""
    name, number = place

    def key(contender: Contender) -> str:
        return json.dumps([name, full.sampler, full.steps, number, contender.method, round(contender.setting, 4)])

    todo = [one for one in contenders(full) if key(one) not in rows and one.method in methods]
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
        rows.add({**row, "setting": contender.setting, "share": flops / whole, "psnr": psnr(latents, reference)})


def publish(rows: Rows, result: Path = RESULT, document: Path = DOCUMENT) -> str:
    """Write result and document; the table and what it comes to."""
    save(result, {"machine": machine(torch.device("cpu")), "rows": rows.all()})
    found = cells(rows.all())
    told = {"forecasts": table(found), "summary": summary(found, "confirm")}
    if document.exists():
        insert(document, told, shared=True)
    return "\n\n".join(told.values())


def main(arguments: Sequence[str]) -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="dev.py bench forecasts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subject", choices=get_args(Subject), default="shapes", help="what the pictures show")
    parser.add_argument("--set", choices=["choose", "confirm"], default="choose", help="captions")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--again", nargs="+", default=(), choices=METHODS, help="measure their rows anew, once")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 20, 50])
    parser.add_argument("--samplers", nargs="+", default=["euler", "dpmpp_2m", "dpmpp_2m_sde"], choices=SAMPLERS)
    parser.add_argument("--captions", type=int, default=4, help=f"in batches of {BATCH}; 0 writes what there is")
    parser.add_argument("--out", type=Path, default=HERE, help="where rows are kept")
    options = parser.parse_args(arguments)
    rows, captions = Rows(RESULT, options.out / "rows.jsonl"), on_subject(options.set, options.subject)
    places = list(product(options.steps, options.samplers))
    if options.captions > 0:
        session = Session.open(subject=options.subject)
        settings = {(one.method, one.setting) for steps in options.steps for one in contenders(Sampling(steps))}
        rows.ask_again(options.again, [(captions, sampler, steps) for steps, sampler in places], settings)
        for (steps, sampler), number in product(places, range(batches(options.captions))):
            measure(session, Sampling(steps, sampler=sampler), (captions, number), options.methods, rows)
    print(publish(rows))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)
