"""Who is nearest to the full run at a cost: the map over samplers, steps and costs, and what it comes to in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ...printing import markdown
from ..captions import FIRST_SEED
from .contenders import COSTS, METHODS, PEERS, TITLES
from .forecast_rows import cell_of

NEAR = 0.5
"""dB within which two are as near."""
MANY_STEPS = 12
SAMPLERS = ("euler", "dpmpp_2m", "dpmpp_2m_sde", "euler_ancestral")
CONTINUOUS = ("AT-EDM", "auto")
"""Methods that come at any cost; the others come in whole evaluations, and half of one over the cost is granted."""
SLACK = 0.005
OLD = "°"
PRUNES = ("AT-EDM", "auto")


@dataclass(frozen=True)
class Best:
    """The nearest of a method's settings that cost no more: dB, median over captions, and share of FLOPs.

    It is `old` where its rows have no date: for what the pack does, from before blocks were pruned unlike each other.
    """

    psnr: float
    share: float
    old: bool = False

    def __str__(self) -> str:
        return f"{self.psnr:.1f} ({self.share:.0%}){OLD if self.old else ''}"


@dataclass(frozen=True)
class Cell:
    """What every method reaches on captions with a sampler, at a number of steps and a cost."""

    captions: str
    sampler: str
    steps: int
    cost: float
    found: dict[str, Best]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.captions}: {self.sampler}, {self.steps} steps, {self.cost:.0%}"

    def ahead_of(self, methods: Sequence[str]) -> float | None:
        """dB by which Auto is nearer than the nearest of these; `None` where nothing is there to compare."""
        others = [self.found[one].psnr for one in methods if one in self.found]
        return self.found["auto"].psnr - max(others) if others and "auto" in self.found else None


def cells(rows: Sequence[dict[str, Any]]) -> list[Cell]:
    """All cells, in the order of captions, samplers, steps and costs."""
    order = [*map(str, FIRST_SEED)][::-1]
    places = sorted(set(map(cell_of, rows)), key=lambda one: (order.index(one[0]), SAMPLERS.index(one[1]), one[2]))
    found = []
    for place in places:
        own = [row for row in rows if cell_of(row) == place]
        for cost in COSTS:
            reached = {method: best(own, method, place[2], cost) for method in METHODS}
            known = {method: one for method, one in reached.items() if one is not None}
            found.append(Cell(*place, cost, known))
    return found


def best(rows: Sequence[dict[str, Any]], method: str, steps: int, cost: float) -> Best | None:
    """The nearest of a method's settings among the rows of one cell."""
    most = cost + (SLACK if method in CONTINUOUS else 0.5 / steps)
    found: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        if row["method"] == method:
            found.setdefault(row["setting"], []).append(row)
    reached = []
    for same in found.values():
        share = sum(row["share"] for row in same) / len(same)
        if share <= most + 1e-6:
            old = method in PRUNES and not all("when" in row for row in same)
            reached.append((median(value for row in same for value in row["psnr"]), share, old))
    return Best(*max(reached)) if reached else None


def table(found: Sequence[Cell]) -> str:
    """One line for each cell."""
    lines = [[cell.name, *(str(cell.found.get(method, "")) for method in METHODS)] for cell in found]
    return markdown(["", *(TITLES.get(one, one) for one in METHODS)], lines)


def summary(found: Sequence[Cell], purpose: str) -> str:
    """What the map says of Auto, in sentences, from the cells whose captions serve a purpose."""
    own = [cell for cell in found if cell.captions.endswith(purpose) and len(cell.found) > 1 and "auto" in cell.found]
    if not own:
        return f"No cell of captions to {purpose} has been measured."
    others = [method for method in METHODS if method != "auto"]
    behind = [(ahead, cell) for cell in own if (ahead := cell.ahead_of(others)) is not None]
    near = [cell for ahead, cell in behind if ahead >= -NEAR]
    lines = [
        f"Of {len(behind)} cells on captions to {purpose} by, Auto is the nearest or within {NEAR} dB of it in "
        f"{len(near)} ({len(near) / len(behind):.0%})."
    ]
    if alone := sum(cell.ahead_of([*PEERS, "AT-EDM", "forecasts"]) is None for _, cell in behind):
        lines[-1] += f" In {alone} of them nothing but fewer steps stands beside it."
    if old := sum(cell.found["auto"].old for _, cell in behind):
        lines[-1] += f" In {old} of them Auto is as it was before ({OLD})."
    missed = sorted((ahead, cell.name, cell) for ahead, cell in behind if ahead < -NEAR)
    if missed:
        told = "; ".join(f"{_short(cell)} by {-ahead:.1f} dB ({_nearest(cell)})" for ahead, _, cell in missed[:6])
        lines[-1] += f" Behind it most: {told}."
    lines.append(_against(own, ["fewer steps"], "fewer steps"))
    lines.append(_against(own, PEERS, "the best peer"))
    return "\n\n".join(lines)


def _against(own: Sequence[Cell], methods: Sequence[str], name: str) -> str:
    both = [(ahead, cell.name, cell) for cell in own if (ahead := cell.ahead_of(methods)) is not None]
    if not both:
        return f"Nothing to compare with {name}."
    ahead, _, worst = min(both)
    many = [one for one, _, cell in both if cell.steps >= MANY_STEPS]
    further = sum(one < -1.0 for one, _, _ in both)
    text = f"Against {name} ({len(both)} cells): worst {ahead:+.1f} dB ({_short(worst)}), further by over 1 dB in "
    text += f"{further or 'none'}"
    if many:
        text += f"; nearer by {median(many):.1f} dB in the median over the {len(many)} with {MANY_STEPS} steps or more"
    return text + "."


def _nearest(cell: Cell) -> str:
    name = max((one for one in cell.found if one != "auto"), key=lambda one: cell.found[one].psnr)
    return f"{TITLES.get(name, name)} at {cell.found[name].share:.0%}, Auto at {cell.found['auto'].share:.0%}"


def _short(cell: Cell) -> str:
    subject = "" if cell.captions.startswith("photographs") else "flat shapes, "
    return f"{subject}{cell.sampler}, {cell.steps} steps, {cell.cost:.0%}"
