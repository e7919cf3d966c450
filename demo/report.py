"""The demo's result in words and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .drawing import Drawn, Row, Task, cost_share
from .likeness import mean_difference, psnr, ssim
from .timing import speed_up
from .ways import FULL


@dataclass(frozen=True)
class Machine:
    """Where everything was measured: in words, and whether it has nothing but a CPU."""

    name: str
    on_cpu: bool


PROCESSOR_TIME = "processor time of sampling on one thread, so that other work on this machine is not in them"
HEAD = ("", "seconds", "speed-up", "by FLOPs", "PSNR", "SSIM")


def build(task: Task, rows: Sequence[Row], machine: Machine, sdxl: dict[str, Any] | None) -> dict[str, Any]:
    """Everything the demo found out. `sdxl` is what `demo.sdxl` printed, `None` where it was left out."""
    ways = [FULL.name]
    for way in task.methods:
        ways += [way.name, f"{way.name}-steps"]
    return {
        "machine": machine.name,
        "clock": PROCESSOR_TIME if machine.on_cpu else "time of sampling",
        "settings": {
            "prune_ratio": task.prune_ratio,
            "speed_up": task.speed_up,
            "model": task.loader.inputs,
            **vars(task.sampling),
        },
        "prompts": [{"prompt": row.prompt, "seed": row.seed} for row in rows],
        "ways": [_way(name, rows) for name in ways],
        "blocks": _blocks([row.runs[task.methods[0].name] for row in rows]),
        "sdxl": sdxl,
    }


def _way(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """One way of drawing beside the runs in full."""
    full, runs = [row.runs[FULL.name] for row in rows], [row.runs[name] for row in rows]
    pairs = [pair for a, b in zip(full, runs, strict=True) for pair in zip(a.pictures, b.pictures, strict=True)]
    return {
        "name": name,
        "title": runs[0].way.title,
        "control_of": runs[0].way.control_of,
        **speed_up([run.record["seconds"] for run in full], [run.record["seconds"] for run in runs]),
        "all_seconds": [run.record["seconds"] for run in runs],
        "flops_share": statistics.median(cost_share(run, one) for run, one in zip(runs, full, strict=True)),
        **_nearness(name, pairs),
    }


def _nearness(name: str, pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    if name == FULL.name:
        return {"psnr_db": None, "ssim": None, "mean_abs_difference": None}
    ratios = [value for value in (psnr(*pair) for pair in pairs) if value is not None]
    return {
        "psnr_db": statistics.median(ratios) if ratios else None,
        "ssim": statistics.median(ssim(*pair) for pair in pairs),
        "mean_abs_difference": statistics.median(mean_difference(*pair) for pair in pairs),
    }


def _blocks(runs: Sequence[Drawn]) -> list[dict[str, Any]]:
    """Tokens kept per block, over the runs with AT-EDM alone."""
    tokens: dict[str, tuple[int, int]] = {}
    for run in runs:
        for block in run.record.get("blocks", ()):
            kept, seen = tokens.get(block["name"], (0, 0))
            tokens[block["name"]] = kept + block["tokens_kept"], seen + block["tokens"]
    return [{"name": name, "share_kept": kept / seen if seen else 1.0} for name, (kept, seen) in tokens.items()]


def as_text(report: dict[str, Any]) -> str:
    """What a person reads first; the speed-ups are its last line."""
    settings, ways = report["settings"], {way["name"]: way for way in report["ways"]}
    pictures = len(report["prompts"]) * settings["batch"]
    at_once = f", {settings['batch']} at once" if settings["batch"] > 1 else ""
    lines = [
        f"Measured on this machine: {report['machine']}",
        "",
        f"{pictures} pictures of {settings['size']} x {settings['size']}{at_once}, by a small model that comes with"
        f" AT-EDM; {settings['steps']} steps {settings['sampler']}, cfg {settings['cfg']:g}",
        *table([HEAD, *(_line(way, ways) for way in report["ways"])]),
        f"Seconds are {report['clock']}.",
        f"Speed-ups are {_rounds(len(report['prompts']))} of full and faster runs in turns.",
        "PSNR and SSIM say how near to the full pictures of the same seeds: higher is nearer, SSIM 1 is equal.",
        "",
    ]
    if any(way["name"] == "at-edm" and way["speed_up"] < 1 for way in report["ways"]):
        lines += [
            "AT-EDM alone is slower here: in blocks as small as this model's, choosing tokens can take longer than",
            "dropping them saves. SDXL's are 10 to 20 times as wide and have 16 times as many tokens.",
            "",
        ]
    if report["sdxl"] is not None:
        lines += [*_sdxl_lines(report["sdxl"], settings["prune_ratio"]), ""]
    return "\n".join([*lines, last_line(report)]) + "\n"


def _line(way: dict[str, Any], ways: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    title = way["title"]
    if way["control_of"]:
        title = f"  beside it: {title}"
    nearness = ["", ""] if way["ssim"] is None else [_decibels(way["psnr_db"]), f"{way['ssim']:.3f}"]
    return (title, f"{way['seconds']:.2f}", _times(way["speed_up"]), _times(1 / way["flops_share"]), *nearness)


def _decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f} dB"


def _times(value: float) -> str:
    return f"{value:.2f}x"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _rounds(count: int) -> str:
    return f"medians of {count} rounds" if count > 1 else "from one round"


def _sdxl_lines(sdxl: dict[str, Any], ratio: float) -> list[str]:
    time = f"processor time over {sdxl['threads']} threads, " if sdxl["threads"] else ""
    return [
        f"SDXL at {sdxl['size']} px, a step for one condition, put together from layers timed here in {sdxl['dtype']}"
        f" on {sdxl['device']}:",
        f"{sdxl['seconds_full']:.3g} s in full, {sdxl['seconds_pruned']:.3g} s with AT-EDM at {ratio:g}:"
        f" {_times(sdxl['speed_up'])} as fast, where FLOPs predict {_times(sdxl['flops_predict'])}",
        f"({time}{_rounds(sdxl['rounds'])}; random weights, on which speed does not depend).",
    ]


def last_line(report: dict[str, Any]) -> str:
    """The speed-ups, and nothing else."""
    found = [
        f"{_times(way['speed_up'])} with {way['title']}"
        for way in report["ways"]
        if way["name"] != FULL.name and not way["control_of"]
    ]
    if report["sdxl"] is not None:
        found.append(f"a step of SDXL {_times(report['sdxl']['speed_up'])} with AT-EDM")
    return f"Speed-up measured here: {', '.join(found)}"


def write(report: dict[str, Any], folder: Path) -> None:
    """summary.json and summary.txt."""
    (folder / "summary.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "summary.txt").write_text(as_text(report), encoding="utf-8")
