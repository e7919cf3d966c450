"""Plots of the lab: distance against FLOPs, distance over progress, and where pruning beats fewer steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ..summary import Line

SHARES = {"share": "of the demo model's FLOPs", "sdxl_share": "of SDXL's FLOPs at 1024 px"}
PEER_CURVES = ("ToMe", "HyperTile", "Deep Shrink", "EasyCache", "LazyCache", "AT-EDM 0.66 and EasyCache")
RESOLUTION = 110


def pareto(ratio: Sequence[Line], peers: Sequence[Line], file: Path) -> None:
    """Median PSNR against FLOPs, on the demo model and with the same decisions on SDXL."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    curves: dict[str, list[Line]] = {}
    for line in ratio:
        name = "fewer steps" if line["name"].endswith("steps") else f"AT-EDM, {line['name'].rpartition(',')[0]}"
        curves.setdefault(name, []).append(line)
    for line in peers:
        named = next((name for name in PEER_CURVES if line["name"].startswith(name)), None)
        if named is not None:
            curves.setdefault(named, []).append(line)
    for axis, (measure, title) in zip(axes, SHARES.items(), strict=True):
        for number, (name, found) in enumerate(curves.items()):
            _curve(axis, name, [line for line in found if line[measure] is not None], measure, number)
        axis.set_xlabel(f"share {title}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("median PSNR to the unpruned picture, dB")
    axes[0].legend(fontsize=8)
    _save(figure, file)


def _curve(axis: Axes, name: str, lines: Sequence[Line], measure: str, number: int) -> None:
    if not lines:
        return
    points = sorted((line[measure], line["psnr"]) for line in lines)
    style = "--s" if name == "fewer steps" else "-o" if name.startswith("AT-EDM,") else ":^"
    axis.plot(*zip(*points, strict=True), style, label=name, color=f"C{number}", markersize=4)


def progress(found: Sequence[Line], file: Path) -> None:
    """Median single-step error at each step."""
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for line in found:
        count = len(line["step_errors"])
        axis.plot(range(1, count + 1), line["step_errors"], "-o", label=line["name"], markersize=3)
    axis.set_xlabel("step, from most to least noise")
    axis.set_ylabel("relative error of the guided velocity, median")
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, file)


def step_map(found: Sequence[Line], file: Path) -> None:
    """dB by which pruning is nearer than fewer steps at SDXL's FLOPs, one panel per sampler."""
    samplers = list(dict.fromkeys(line["sampler"] for line in found))
    titles = {"own": "to the own picture", "stacked": "to the 50-step picture"}
    kinds = {kind: title for kind, title in titles.items() if any(f"{kind}_gain" in line for line in found)}
    if not kinds:
        return
    size = (3.6 * len(samplers), 3.6 * len(kinds))
    figure, axes = plt.subplots(len(kinds), len(samplers), figsize=size, sharey="row", squeeze=False)
    colours = {ratio: f"C{number}" for number, ratio in enumerate(sorted({line["ratio"] for line in found}))}
    for row, (kind, title) in zip(axes, kinds.items(), strict=True):
        for axis, sampler in zip(row, samplers, strict=True):
            _gains(
                axis, [line for line in found if line["sampler"] == sampler and f"{kind}_gain" in line], kind, colours
            )
            axis.set_title(f"{sampler}, {title}", fontsize=9)
        row[0].set_ylabel("dB nearer than fewer steps\n(above 0: pruning wins)")
    if axes[0][0].lines[1:]:  # beside the line at 0
        axes[0][0].legend(fontsize=8)
    _save(figure, file)


def _gains(axis: Axes, found: Sequence[Line], kind: str, colours: Mapping[float, str]) -> None:
    for ranking, ratio in sorted({(line["ranking"], line["ratio"]) for line in found}):
        own = [line for line in found if (line["ranking"], line["ratio"]) == (ranking, ratio)]
        points = sorted((line["steps"], line[f"{kind}_gain"]) for line in own)
        style = "-o" if ranking == "defaults" else "--s"
        label = f"{ranking}, {ratio:g}"
        axis.plot(*zip(*points, strict=True), style, label=label, markersize=4, color=colours[ratio])
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xscale("log")
    steps = sorted({line["steps"] for line in found})
    axis.set_xticks(steps, [str(step) for step in steps])
    axis.minorticks_off()
    axis.set_xlabel("steps")
    axis.grid(alpha=0.3)


PLOTS: dict[str, Callable[..., Any]] = {"progress": progress, "steps": step_map}


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=RESOLUTION)
    plt.close(figure)
