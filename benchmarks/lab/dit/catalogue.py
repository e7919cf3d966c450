"""The rows of every table: CAT Pruning as published, each of its options, what it has to beat, and fewer steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

from ...pack.atedm_core.dit.schedule import DEFAULT_SCHEDULE, CATSchedule
from ...pack.atedm_core.dit.selection import DEFAULT_SELECTION
from ..captions import CaptionSet
from ..cases import Peer, Row, Sampling
from .cases import PUBLISHED_SCHEDULE, PUBLISHED_SELECTION, CATCase, CATPruning

STEPS = (8, 12, 20, 28)
FEWER = {
    8: (4, 5, 6, 7),
    12: (4, 6, 7, 8, 9, 10),
    20: (6, 8, 10, 11, 12, 14, 15, 17),
    28: (8, 11, 14, 15, 16, 19, 20, 24),
    50: (4, 5, 6, 7, 8, 10, 11, 12, 15, 16, 20, 24, 28),
}
"""Unpruned runs that runs of so many steps are compared with; between two of them PSNR is interpolated."""
SAMPLERS = ("dpmpp_2m", "dpmpp_2m_sde", "euler_ancestral")
"""Beside euler: one that looks back, one that adds noise in every step and looks back, one that adds noise."""
FEWER_BY_SAMPLER = {12: (7, 8, 9), 20: (10, 11, 14, 15)}
"""As `FEWER`, between which the node's settings cost what they do."""
OPTIONS_STEPS = 20
LONG_STEPS = 50
COUNT = 8
"""Captions of every row."""

PAPER = replace(
    PUBLISHED_SELECTION,
    reference="last full step",
    cluster_by="change",
    position="concatenated",
    pooling="every set",
    stale_in_cluster=0.0,
)
ROUND_ROBIN = replace(PUBLISHED_SELECTION, hot_share=0.0)
SCATTERED = replace(ROUND_ROBIN, tie_order="scattered")
HOT_ONLY = replace(PUBLISHED_SELECTION, hot_share=1.0, stale_in_cluster=0.0)

METHODS: dict[str, CATPruning] = {
    "CAT Pruning, defaults": CATPruning(),
    "round robin": CATPruning(ROUND_ROBIN),
    "round robin, scattered": CATPruning(SCATTERED),
    "hot share 0.5": CATPruning(replace(PUBLISHED_SELECTION, hot_share=0.5)),
    "hot share 0.75": CATPruning(replace(PUBLISHED_SELECTION, hot_share=0.75)),
    "hot clusters only": CATPruning(HOT_ONLY),
    "largest change, no clusters": CATPruning(control="largest change"),
    "random": CATPruning(control="random"),
}
"""At equal FLOPs."""

OPTIONS: dict[str, CATPruning] = {
    "CAT Pruning, defaults": CATPruning(),
    "round robin": CATPruning(ROUND_ROBIN),
    "ties scattered": CATPruning(replace(PUBLISHED_SELECTION, tie_order="scattered")),
    "all options as in the paper": CATPruning(PAPER),
    "reference: last full step": CATPruning(replace(PUBLISHED_SELECTION, reference="last full step")),
    "clustered by change": CATPruning(replace(PUBLISHED_SELECTION, cluster_by="change")),
    "position concatenated": CATPruning(replace(PUBLISHED_SELECTION, position="concatenated")),
    "pooling: every set": CATPruning(replace(PUBLISHED_SELECTION, pooling="every set")),
    "pooling: never": CATPruning(replace(PUBLISHED_SELECTION, pooling="never")),
    "no stale members in hot clusters": CATPruning(replace(PUBLISHED_SELECTION, stale_in_cluster=0.0)),
    "hot share 0.5": CATPruning(replace(PUBLISHED_SELECTION, hot_share=0.5)),
    "hot share 0.75": CATPruning(replace(PUBLISHED_SELECTION, hot_share=0.75)),
    "decay 0": CATPruning(replace(PUBLISHED_SELECTION, decay=0.0)),
    "decay 0.9": CATPruning(replace(PUBLISHED_SELECTION, decay=0.9)),
    "8 clusters": CATPruning(replace(PUBLISHED_SELECTION, clusters=8)),
    "40 clusters": CATPruning(replace(PUBLISHED_SELECTION, clusters=40)),
}
"""At equal FLOPs."""

BUDGETS: dict[str, CATPruning] = {
    "CAT Pruning, defaults": CATPruning(),
    "keep 0.2": CATPruning(replace(PUBLISHED_SELECTION, keep_ratio=0.2)),
    "keep 0.5": CATPruning(replace(PUBLISHED_SELECTION, keep_ratio=0.5)),
    "keep 0.5, round robin": CATPruning(replace(ROUND_ROBIN, keep_ratio=0.5)),
    "keep 0.7": CATPruning(replace(PUBLISHED_SELECTION, keep_ratio=0.7)),
    "warm-up 0.15": CATPruning(schedule=replace(PUBLISHED_SCHEDULE, warmup=0.15, least_full_steps=2)),
    "warm-up 0.5": CATPruning(schedule=replace(PUBLISHED_SCHEDULE, warmup=0.5)),
    "refresh every 4": CATPruning(schedule=replace(PUBLISHED_SCHEDULE, refresh_interval=4)),
    "last step full": CATPruning(schedule=replace(PUBLISHED_SCHEDULE, last_full_steps=1)),
    "last 3 steps full": CATPruning(schedule=replace(PUBLISHED_SCHEDULE, last_full_steps=3)),
}
"""At FLOPs of their own."""

AT_COST_OF_LAZY = {8: 0.5, 12: 0.35, 20: 0.1, 28: 0.1}
"""Keep ratios by steps of the run, at which the node's schedule costs about what LazyCache does there, or its least."""
AS_CHEAP = {8: 0.75, 12: 0.75, 20: 0.7, 28: 0.68}
"""Real evaluations by steps of the run that cost what the node's defaults do there."""
COMPUTE_BESIDE, KEEP_BESIDE = 0.8, 0.6
"""Real evaluations and keep ratio that cost as much together, from 20 steps on."""
FASTER_SCHEDULE, FASTER_KEEP = replace(DEFAULT_SCHEDULE, refresh_interval=0), 0.4
"""Without full steps in between: half of the FLOPs, at 20 steps."""
FASTER_COMPUTE, FASTER_KEEP_BESIDE = 0.6, 0.8
"""Real evaluations and keep ratio that cost as much together, without full steps in between."""

SPEED_UPS = (1.4, 2.0)
"""Asked of AT-EDM Auto."""

LAZY = {"LazyCache 0.2": Peer("lazy_cache", (("threshold", 0.2),))}


def build(captions: CaptionSet = "choose", count: int = COUNT) -> dict[str, list[Row]]:
    """Groups of rows by name, on one set of captions."""

    def rows(group: str, steps: int, found: dict[str, CATPruning]) -> list[Row]:
        sampling = Sampling(steps)
        made = [Row(group, name, CATCase(sampling, one), captions, count) for name, one in found.items()]
        return made + fewer(group, steps, captions, count)

    groups = {f"cat {steps} steps": _by_steps(steps, captions, count, rows) for steps in STEPS}
    groups |= {f"cat defaults {steps} steps": _defaults(steps, captions, count) for steps in STEPS}
    groups |= {_by_sampler_name(*of): _by_sampler(*of, captions, count) for of in product(SAMPLERS, FEWER_BY_SAMPLER)}
    groups["cat options"] = rows("cat options", OPTIONS_STEPS, OPTIONS)
    groups["cat budgets"] = rows("cat budgets", OPTIONS_STEPS, BUDGETS)
    groups["cat long"] = _against_long(captions, count)
    return groups


def _defaults(steps: int, captions: CaptionSet, count: int) -> list[Row]:
    """The node's defaults beside what was published, and beside forecasts of whole evaluations, alone and together."""
    group, sampling = f"cat defaults {steps} steps", Sampling(steps)

    def ours(keep: float, control: str | None = None, schedule: CATSchedule = DEFAULT_SCHEDULE) -> CATPruning:
        return CATPruning(replace(DEFAULT_SELECTION, keep_ratio=keep), schedule, control)

    turns = replace(SCATTERED, keep_ratio=DEFAULT_SELECTION.keep_ratio)
    found = {
        "as published": CATCase(sampling, CATPruning()),
        "CAT Pruning, defaults": CATCase(sampling, ours(DEFAULT_SELECTION.keep_ratio)),
        "the same, nothing moved": CATCase(sampling, ours(DEFAULT_SELECTION.keep_ratio, "unmoved")),
        "the same, plain turns": CATCase(sampling, CATPruning(turns, DEFAULT_SCHEDULE)),
        "Step Forecast": CATCase(sampling, compute=AS_CHEAP[steps]),
        "CAT Pruning and Step Forecast": CATCase(sampling, ours(KEEP_BESIDE), compute=COMPUTE_BESIDE),
        "Step Forecast at half": CATCase(sampling, compute=0.5),
        "CAT Pruning, keep 0.4, no full steps between": CATCase(sampling, ours(FASTER_KEEP, schedule=FASTER_SCHEDULE)),
        "both at half, no full steps between": CATCase(
            sampling, ours(FASTER_KEEP_BESIDE, schedule=FASTER_SCHEDULE), compute=FASTER_COMPUTE
        ),
        **{f"AT-EDM Auto, {times:g}x": CATCase(sampling, speed_up=times) for times in SPEED_UPS},
        "CAT Pruning near LazyCache's cost": CATCase(sampling, ours(AT_COST_OF_LAZY[steps])),
        **{name: CATCase(sampling, peer=peer) for name, peer in LAZY.items()},
    }
    rows = [Row(group, name, case, captions, count) for name, case in found.items()]
    return rows + fewer(group, steps, captions, count)


def _by_sampler_name(sampler: str, steps: int) -> str:
    return f"cat {sampler} {steps} steps"


def _by_sampler(sampler: str, steps: int, captions: CaptionSet, count: int) -> list[Row]:
    group, sampling = _by_sampler_name(sampler, steps), Sampling(steps, sampler=sampler)
    found = {
        "as published": CATCase(sampling, CATPruning()),
        "CAT Pruning, defaults": CATCase(sampling, CATPruning(DEFAULT_SELECTION, DEFAULT_SCHEDULE)),
        "Step Forecast": CATCase(sampling, compute=AS_CHEAP[steps]),
        "CAT Pruning and Step Forecast": CATCase(
            sampling,
            CATPruning(replace(DEFAULT_SELECTION, keep_ratio=KEEP_BESIDE), DEFAULT_SCHEDULE),
            compute=COMPUTE_BESIDE,
        ),
        **{f"AT-EDM Auto, {times:g}x": CATCase(sampling, speed_up=times) for times in SPEED_UPS},
    }
    rows = [Row(group, name, case, captions, count) for name, case in found.items()]
    return rows + [
        Row(group, f"{number} steps", CATCase(replace(sampling, steps=number)), captions, count, against=sampling)
        for number in FEWER_BY_SAMPLER[steps]
    ]


def _by_steps(
    steps: int, captions: CaptionSet, count: int, rows: Callable[[str, int, dict[str, CATPruning]], list[Row]]
) -> list[Row]:
    group, sampling = f"cat {steps} steps", Sampling(steps)
    held = CATCase(sampling, held=PUBLISHED_SCHEDULE.warmup_steps(steps))
    lazy = {name: CATCase(sampling, peer=peer) for name, peer in LAZY.items()}
    others = {"velocity held after the warm-up": held, **lazy}
    found = rows(group, steps, METHODS)
    return found + [Row(group, name, case, captions, count) for name, case in others.items()]


def fewer(group: str, steps: int, captions: CaptionSet, count: int) -> list[Row]:
    """Unpruned runs of fewer steps, measured against the run of `steps`."""
    full = Sampling(steps)
    return [
        Row(group, f"{number} steps", CATCase(Sampling(number)), captions, count, against=full)
        for number in FEWER[steps]
    ]


def _against_long(captions: CaptionSet, count: int) -> list[Row]:
    """Pruned runs of every number of steps against the picture that many steps lead to."""
    group, full = "cat long", Sampling(LONG_STEPS)
    found = [
        Row(group, f"{name}, {steps} steps", CATCase(Sampling(steps), METHODS[name]), captions, count, against=full)
        for steps in STEPS
        for name in ("CAT Pruning, defaults", "round robin")
    ]
    return found + fewer(group, LONG_STEPS, captions, count)
