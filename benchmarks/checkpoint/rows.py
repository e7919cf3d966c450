"""The rows of the table: the paper's numbers, and what is put on the model to make each row here.

A row's ratio is the one that costs the paper's FLOPs on SDXL at 1024 px, solved by the pack's own budget, averaged over
a run's steps with DSAP and without what choosing tokens takes, as the paper counts. Other models and sizes have the
same ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from demo.workflow import Node

from ..lab.unet.flops import SDXL_LATENT, sdxl
from ..pack.atedm_core.unet.budget import Budget, solve_budget
from ..pack.atedm_core.unet.flops import unet_flops
from ..pack.atedm_core.unet.schedule import PAPER_SCHEDULE, DSAPSchedule
from ..pack.atedm_core.unet.settings import PAPER_SETTINGS, PrunePoint, PruneSettings

Method = Literal["full", "tome", "paper", "pack"]

SDXL_TFLOPS = unet_flops(sdxl(), SDXL_LATENT) / 1e12
APPLY, SCHEDULE, BUDGET, TOME = "ATEDMApply", "ATEDMSchedule", "ATEDMBudget", "ATEDMBenchToMe"
NO_DSAP = DSAPSchedule(early_percent=0.0, early_blocks="none", level_scales=())


@dataclass(frozen=True)
class Row:
    """A row of the paper's table, or one of ours beside it.

    Attributes:
        id: in file names and on the command line.
        name: in tables.
        method: what is put on the model.
        tflops: the paper's, for one step of SDXL at 1024 px.
        fid: the paper's; `None` where it has no such row.
        clip: the paper's.
    """

    id: str
    name: str
    method: Method
    tflops: float
    fid: float | None = None
    clip: float | None = None


# AT-EDM (Wang et al., CVPR 2024), table of MS-COCO 2017 at 1024 px, 50 steps, CFG 7
TABLE: tuple[Row, ...] = (
    Row("full", "full model", "full", SDXL_TFLOPS, 31.94, 0.3284),
    Row("tome-a", "ToMe-a", "tome", 2.9, 58.76, 0.2954),
    Row("tome-b", "ToMe-b", "tome", 3.6, 40.94, 0.3154),
    Row("tome-c", "ToMe-c", "tome", 4.1, 35.27, 0.3198),
    Row("tome-d", "ToMe-d", "tome", 4.6, 32.46, 0.3235),
    Row("paper-a", "AT-EDM-a, paper's recipe", "paper", 2.9, 52.00, 0.2784),
    Row("paper-b", "AT-EDM-b, paper's recipe", "paper", 3.6, 29.80, 0.3095),
    Row("paper-c", "AT-EDM-c, paper's recipe", "paper", 4.1, 28.04, 0.3209),
    Row("paper-d", "AT-EDM-d, paper's recipe", "paper", 4.5, 27.23, 0.3245),
    Row("pack-a", "AT-EDM-a, pack's defaults", "pack", 2.9),
    Row("pack-b", "AT-EDM-b, pack's defaults", "pack", 3.6),
    Row("pack-c", "AT-EDM-c, pack's defaults", "pack", 4.1),
    Row("pack-d", "AT-EDM-d, pack's defaults", "pack", 4.5),
)
BY_ID = {row.id: row for row in TABLE}


@dataclass(frozen=True)
class Plan:
    """A row as it is drawn here.

    Attributes:
        row: which.
        ratio: share of tokens dropped or merged.
        tflops: of a step of SDXL at 1024 px at that ratio, averaged over a run.
        nodes: of the workflow, in API format, without the link to the model; the last one gives the patched model.
        note: what the table has to say about it.
    """

    row: Row
    ratio: float
    tflops: float
    nodes: dict[str, Node]
    note: str = ""

    def told(self) -> dict[str, Any]:
        """As it is kept beside the pictures."""
        return {"ratio": self.ratio, "tflops": self.tflops, "nodes": self.nodes, "note": self.note}


def inputs_with_defaults(info: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a node that a person types, with their defaults, from what a server says about the node."""
    given = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return {name: one[1]["default"] for name, one in given.items() if len(one) > 1 and "default" in one[1]}


def paper_inputs(offered: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's recipe, as far as the node offers inputs for it; the node's defaults for the rest."""
    recipe = asdict(PAPER_SETTINGS)
    return {name: recipe.get(name, default) for name, default in offered.items() if name != "prune_ratio"}


def not_settable(offered: Mapping[str, Any]) -> list[str]:
    """What of the paper's recipe differs from the pack's defaults and cannot be said through the node."""
    ours = asdict(PruneSettings())
    return [
        f"{name} is {ours[name]}, the paper's is {value}"
        for name, value in asdict(PAPER_SETTINGS).items()
        if value != ours[name] and name not in offered
    ]


def plan(rows: Sequence[Row], offered: Mapping[str, Any]) -> dict[str, Plan]:
    """Solve every row for its ratio.

    Args:
        rows: to run.
        offered: inputs of the `ATEDMApply` node with their defaults.

    Raises:
        ValueError: the pack's defaults cannot save as much as a row asks for.
    """
    return {row.id: _plan(row, offered) for row in rows}


def _plan(row: Row, offered: Mapping[str, Any]) -> Plan:
    if row.method == "full":
        return Plan(row, 0.0, round(SDXL_TFLOPS, 4), {})
    if row.method == "tome":
        # merging in every part of every layer leaves what pruning at the block's start leaves
        ratio, tflops = _solved(_budget(row, NO_DSAP, PruneSettings(prune_from="block start", merge="none")))
        return Plan(row, ratio, tflops, {"merge": {"class_type": TOME, "inputs": {"ratio": ratio}}})
    paper = row.method == "paper"
    inputs = paper_inputs(offered) if paper else {n: v for n, v in offered.items() if n != "prune_ratio"}
    schedule, note = (PAPER_SCHEDULE if paper else None), ""
    point: PrunePoint = inputs.get("prune_from", PAPER_SETTINGS.prune_from)
    settings = PAPER_SETTINGS if paper else PruneSettings(prune_from=point)
    try:
        budget = _budget(row, schedule or DSAPSchedule(), settings)
    except ValueError:
        schedule, note = NO_DSAP, "without DSAP, with which so much cannot be saved"
        budget = _budget(row, schedule, settings)
    ratio, tflops = _solved(budget)
    nodes: dict[str, Node] = {"prune": {"class_type": APPLY, "inputs": {**inputs, "prune_ratio": ratio}}}
    if schedule is not None:
        nodes = {"schedule": {"class_type": SCHEDULE, "inputs": _schedule_inputs(schedule)}, **nodes}
        nodes["prune"]["inputs"]["schedule"] = ["schedule", 0]
    return Plan(row, ratio, tflops, nodes, note)


def _budget(row: Row, schedule: DSAPSchedule, settings: PruneSettings) -> Budget:
    layers_alone = replace(settings, ranking="none", stand_in="grid", recovery="copy")
    return solve_budget(sdxl(), SDXL_LATENT, 1.0 - row.tflops / SDXL_TFLOPS, schedule, layers_alone)


def _solved(budget: Budget) -> tuple[float, float]:
    """Ratio and TFLOPs, as exact as they are worth keeping."""
    return round(budget.schedule.prune_ratio, 6), round(budget.flops / 1e12, 4)


def _schedule_inputs(schedule: DSAPSchedule) -> dict[str, Any]:
    return {name: getattr(schedule, name) for name in ("early_percent", "early_ratio", "early_blocks")}
