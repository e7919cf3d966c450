"""Plots of results, as PNG beside their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = ("#1b6ca8", "#e07a1f", "#3a8f5c", "#8a4fa3")
GREY = "#8a8a8a"
SIZE, DPI = (7.0, 4.0), 150


def bars(path: Path, title: str, axis: str, values: Mapping[str, float], ideal: Mapping[str, float]) -> Path:
    """Horizontal bars in the order given, with a mark where the ideal lies."""
    figure, axes = plt.subplots(figsize=(SIZE[0], 0.9 + 0.32 * len(values)), dpi=DPI)
    names = list(values)
    colours = [COLOURS[0] if name.startswith("AT-EDM") else GREY for name in names]
    axes.barh(names, [values[name] for name in names], color=colours, height=0.66)
    for row, name in enumerate(names):
        axes.text(values[name], row, f" {values[name]:.2f}", va="center", fontsize=8)
        if name in ideal:
            axes.plot([ideal[name]] * 2, [row - 0.4, row + 0.4], color="black", linewidth=1.5)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(axis + (", black line: what FLOPs allow" if ideal else ""))
    return _finish(path, figure, axes, title)


def lines(
    path: Path,
    title: str,
    labels: tuple[str, str],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ideal: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> Path:
    """Curves by name, each with its ideal dashed in the same colour."""
    figure, axes = plt.subplots(figsize=SIZE, dpi=DPI)
    for colour, (name, (x, y)) in zip(COLOURS, curves.items(), strict=False):
        axes.plot(x, y, "o-", color=colour, label=name, markersize=4)
        if name in ideal:
            axes.plot(*ideal[name], "--", color=colour, linewidth=1)
    axes.axhline(1.0, color=GREY, linewidth=0.8)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(frameon=False, title="dashed: what FLOPs allow" if ideal else None, fontsize=8, title_fontsize=8)
    return _finish(path, figure, axes, title)


def _finish(path: Path, figure: plt.Figure, axes: plt.Axes, title: str) -> Path:
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return path
