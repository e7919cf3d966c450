"""Every experiment of the lab, as rows of data. One axis at a time, around the pack's defaults.

New choices of the pack (a recovery, a pruning point) are taken from its own lists and need no line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...pack.atedm_core.unet.schedule import PAPER_RATIO, PAPER_SCHEDULE
from ...pack.atedm_core.unet.settings import (
    MERGES,
    PAPER_SETTINGS,
    PRUNE_POINTS,
    RANKINGS,
    RECOVERIES,
    SELECTIONS,
    STAND_INS,
    PruneSettings,
)
from ..captions import CaptionSet
from ..cases import Peer, Row, Sampling
from .cases import Case, Pruning
from .controls import CONTROLS
from .flops import planned_share, ratio_for, tome_share
from .sdxl import SDXL_SCHEDULE

DEFAULTS = PruneSettings()
SCHEDULE = SDXL_SCHEDULE
ALIKE = replace(SCHEDULE, block_shares=())
"""The same mean ratio in every block."""
BASE = Sampling()
PAPER = Pruning(PAPER_SCHEDULE, PAPER_SETTINGS)
GWPR = replace(DEFAULTS, ranking="self-attention")
"""The defaults, but for what ranks: page rank over attention, in whose place the controls are put."""
LEAST_REDUNDANT = Pruning(SCHEDULE, replace(GWPR, selection="top-k"), "least redundant")
BOTH_LEVELS, HALF_LESS = (1.0, 1.0, 1.0), (1.0, 0.5, 1.0)
"""Level scales: SDXL's half-resolution level pruned as much as the rest, as in the paper, or half as much."""
RATIOS = (0.25, 0.4, 0.5, 0.66, 0.75, 0.85, 0.92)
MAP_STEPS = (4, 6, 8, 12, 20, 30, 50)
MAP_SAMPLERS = ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde")
MAP_RATIOS = (0.3, 0.5, 0.66)
FEWER = {
    4: (2, 3),
    6: (4, 5),
    8: (5, 6, 7),
    12: (8, 9, 11),
    20: (10, 12, 14, 16, 18, 19),
    30: (18, 22, 27, 29),
    50: (30, 36, 42, 48),
}
"""Smaller step counts that stand for `fewer steps` against each number of steps."""

Progress = Callable[[Sampling], list[float]]


@dataclass(frozen=True)
class Sizes:
    """How many captions a table is made of: main tables, ablations, and the widest maps."""

    main: int = 64
    ablation: int = 24
    map: int = 8


def build(progress: Progress, sizes: Sizes) -> dict[str, list[Row]]:
    """All groups by name, in the order in which they matter."""
    steps = progress(BASE)
    solve = _Solver(planned_share(Pruning(PAPER_SCHEDULE), steps), steps)
    return {
        "main": _main(sizes, solve),
        "selection": _selection(sizes),
        "recovery": _recovery(sizes),
        "merge": _merge(sizes),
        "schedule": _schedule(sizes, solve),
        "points": _points(sizes, solve),
        "ratio": _ratio(sizes),
        "steps": _steps(sizes),
        "peers": peers(sizes, solve),
        "ranking": _ranking(sizes),
        "levels": _levels(sizes, solve),
        "blocks": _blocks(sizes),
        "size": _size(sizes),
        "samplers": _samplers(sizes),
        "cfg": _cfg(sizes),
        "progress": _progress(sizes),
        "precision": _precision(sizes),
    }


@dataclass(frozen=True)
class _Solver:
    """Finds the ratio at which a setting spends as much of SDXL's FLOPs as the paper's schedule at the paper's ratio.

    The defaults spend as much, to the rounding of their ratio.
    """

    share: float
    progress: list[float]

    def __call__(self, name: str, settings: PruneSettings = DEFAULTS, **schedule: Any) -> tuple[str, Pruning]:
        if "level_scales" in schedule:  # then all blocks of a level are pruned alike
            schedule["block_shares"] = ()

        def at(ratio: float) -> Pruning:
            return Pruning(replace(SCHEDULE, prune_ratio=ratio, **schedule), settings)

        ratio = ratio_for(self.share, at, self.progress)
        return f"{name} (ratio {ratio:.3f})", at(ratio)

    def defaults_at(self, share: float) -> tuple[str, Pruning]:
        """The defaults at the ratio that spends this share of SDXL's FLOPs."""
        ratio = ratio_for(share, lambda one: at_ratio(Pruning(), one), self.progress)
        return f"defaults at {share:.1%} (ratio {ratio:.3f})", at_ratio(Pruning(), ratio)

    def reaches(self, pruning: Pruning) -> bool:
        """Whether the highest ratio there is was high enough."""
        return abs(planned_share(pruning, self.progress) - self.share) < 2e-3


def with_settings(**changed: Any) -> Pruning:
    """The defaults with some settings changed."""
    return Pruning(SCHEDULE, replace(DEFAULTS, **changed))


def by_attention(control: str | None = None, **changed: Any) -> Pruning:
    """Ranked by self-attention, or by a control in its place."""
    return Pruning(SCHEDULE, replace(GWPR, **changed), control)


def in_papers_schedule(pruning: Pruning) -> Pruning:
    """The same at the paper's ratio, with the paper's early phase."""
    return replace(pruning, schedule=PAPER_SCHEDULE)


def at_ratio(pruning: Pruning, ratio: float) -> Pruning:
    """The same at another ratio."""
    return replace(pruning, schedule=replace(pruning.schedule, prune_ratio=ratio))


def _row(
    group: str, name: str, pruning: Pruning | None, count: int, captions: CaptionSet = "choose", **more: Any
) -> Row:
    sampling = more.pop("sampling", BASE)
    return Row(group, name, Case(sampling, pruning, **more), captions, count)


def _main(sizes: Sizes, solve: _Solver) -> list[Row]:
    """What the document's first table shows, on captions that nothing was chosen by."""
    prunings = {
        "paper's recipe": PAPER,
        "defaults": Pruning(),
        "G-WPR": by_attention(),
        "random": by_attention("random"),
        "even grid": by_attention("even grid"),
        "least redundant keys": LEAST_REDUNDANT,
        "recovery update": with_settings(recovery="update"),
        "copy, stand-in by cosine": with_settings(recovery="copy"),
        "all blocks alike": Pruning(ALIKE),
        "the paper's schedule (ratio 0.63)": Pruning(PAPER_SCHEDULE),
        "the paper's ratio (0.63)": at_ratio(Pruning(), PAPER_RATIO),
    }
    prunings |= dict(
        [
            solve("both levels alike", level_scales=BOTH_LEVELS),
            solve("half level at 0.5", level_scales=HALF_LESS),
        ]
    )
    spared = ("G-WPR", "random", "even grid")
    prunings |= {f"{name}, the paper's schedule": in_papers_schedule(prunings[name]) for name in spared}
    rows = [_row("main", name, pruning, sizes.main, "confirm") for name, pruning in prunings.items()]
    return rows + [_fewer("main", "confirm", sizes.main, BASE, steps) for steps in FEWER[20]]


def _fewer(group: str, captions: CaptionSet, count: int, full: Sampling, steps: int) -> Row:
    sampling = replace(full, steps=steps)
    return Row(group, f"{steps} of {full.steps} steps", Case(sampling), captions, count, against=full)


def _selection(sizes: Sizes) -> list[Row]:
    """Every ranking and every control, in the paper's schedule."""
    found: dict[str, Pruning] = {}
    for selection in SELECTIONS:
        for ranking in RANKINGS:
            name = f"{selection}, G-WPR of {ranking}" if "attention" in ranking else f"{selection}, ranking {ranking}"
            found[name] = with_settings(selection=selection, ranking=ranking)
        for control in CONTROLS:
            found[f"{selection}, {control}"] = by_attention(control, selection=selection)
    return [_row("selection", name, in_papers_schedule(pruning), sizes.ablation) for name, pruning in found.items()]


def _recovery(sizes: Sizes) -> list[Row]:
    choices = [(recovery, "cosine") for recovery in RECOVERIES]
    choices += [(recovery, stand_in) for recovery in ("regression", "update", "copy") for stand_in in STAND_INS]
    return [
        _row("recovery", f"{recovery}, stand-in by {stand_in}", with_settings(recovery=recovery, stand_in=stand_in), n)
        for recovery, stand_in in dict.fromkeys(choices)
        for n in (sizes.ablation,)
    ]


def _schedule(sizes: Sizes, solve: _Solver) -> list[Row]:
    """At the FLOPs of the defaults on SDXL: what is spared early is paid for by a higher ratio later."""
    found = [
        (f"defaults (ratio {SCHEDULE.prune_ratio})", Pruning()),
        ("the paper's (ratio 0.63)", Pruning(PAPER_SCHEDULE)),
    ]
    for blocks in ("stage ends", "all"):
        for percent in (0.1, 0.2, 0.4, 0.5):
            found.append(solve(f"{blocks} early, {percent:g}", early_percent=percent, early_blocks=blocks))
    found.append(solve("all early, 0.3", early_percent=0.3, early_blocks="all"))
    for ramp in ("linear", "cosine"):
        found.append(solve(f"stage ends early, 0.3, {ramp}", early_percent=0.3, ramp=ramp))
        found.append(solve(f"all early, 0.3, {ramp}", early_percent=0.3, early_blocks="all", ramp=ramp))
    for low in (0.3, 0.45):
        found.append(solve(f"stage ends early, 0.3, early ratio {low:g}", early_percent=0.3, early_ratio=low))
    found.append(solve("all early, 0.3, early ratio 0.45", early_percent=0.3, early_blocks="all", early_ratio=0.45))
    reached = [found[0], *(one for one in found[1:] if solve.reaches(one[1]))]
    return [_row("schedule", name, pruning, sizes.ablation) for name, pruning in reached]


def _points(sizes: Sizes, solve: _Solver) -> list[Row]:
    found = [(f"after first layer (ratio {SCHEDULE.prune_ratio})", Pruning())]
    for point in PRUNE_POINTS[1:]:
        settings = replace(DEFAULTS, prune_from=point)
        found += [(f"{point} (ratio {SCHEDULE.prune_ratio})", Pruning(SCHEDULE, settings)), solve(point, settings)]
        intervals = (1,) if point != "block start" else (2, 4)
        for interval in intervals:
            settings = replace(GWPR, prune_from=point, rank_interval=interval)
            found.append(
                (f"{point}, G-WPR every {interval} (ratio {SCHEDULE.prune_ratio})", Pruning(SCHEDULE, settings))
            )
    return [_row("points", name, pruning, sizes.ablation) for name, pruning in found]


def _merge(sizes: Sizes) -> list[Row]:
    """What a kept token is to those it stands for, for the defaults and for the paper's ranking."""
    found = {f"merge {merge}": with_settings(merge=merge) for merge in MERGES}
    found |= {f"G-WPR, merge {merge}": by_attention(merge=merge) for merge in MERGES}
    found |= {f"update, merge {merge}": with_settings(recovery="update", merge=merge) for merge in MERGES}
    found |= {f"copy, merge {merge}": with_settings(recovery="copy", merge=merge) for merge in MERGES}
    return [_row("merge", name, pruning, sizes.ablation) for name, pruning in found.items()]


def _precision(sizes: Sizes) -> list[Row]:
    """The defaults and the paper's recipe in each precision, against the unpruned run in the same one."""
    return [
        _row("precision", f"{name}, {dtype}", pruning, sizes.map, "confirm", sampling=replace(BASE, dtype=dtype))
        for name, pruning in {"defaults": Pruning(), "paper's recipe": PAPER}.items()
        for dtype in ("float32", "bfloat16", "float16")
    ]


def _ratio(sizes: Sizes) -> list[Row]:
    rows = []
    for ratio in RATIOS:
        for name, base in {
            "defaults": Pruning(),
            "paper's recipe": PAPER,
            "random": by_attention("random"),
        }.items():
            rows.append(_row("ratio", f"{name}, {ratio:g}", at_ratio(base, ratio), sizes.ablation))
    return rows + [_fewer("ratio", "choose", sizes.ablation, BASE, steps) for steps in FEWER[20]]


def _steps(sizes: Sizes) -> list[Row]:
    """Each step count against fewer steps; and every one of them against 50 steps, for stacking."""
    rows = []
    for sampler in MAP_SAMPLERS:
        for steps in MAP_STEPS:
            full = Sampling(steps, sampler=sampler)
            longest = replace(full, steps=MAP_STEPS[-1])
            prunings = {f"ratio {ratio:g}": at_ratio(Pruning(), ratio) for ratio in MAP_RATIOS}
            for label, pruning in prunings.items():
                case, name = Case(full, pruning), f"{sampler}, {steps} steps, {label}"
                rows.append(Row("steps", name, case, "choose", sizes.map))
                if steps != longest.steps:
                    rows.append(Row("steps", f"{name}, against 50", case, "choose", sizes.map, longest))
            rows += [
                replace(one, name=f"{sampler}, {one.name}")
                for fewer in FEWER[steps]
                for one in (_fewer("steps", "choose", sizes.map, full, fewer),)
            ]
            if steps not in (longest.steps, *FEWER[longest.steps]):
                rows.append(Row("steps", f"{sampler}, {steps} of 50 steps", Case(full), "choose", sizes.map, longest))
    return rows


def peers(sizes: Sizes, solve: _Solver) -> list[Row]:
    """Beside the defaults at the FLOPs that ToMe takes on SDXL, and fewer steps; EasyCache alone and stacked."""
    strengths: dict[str, list[tuple[tuple[str, float], ...]]] = {
        "tome": [(("ratio", ratio),) for ratio in (0.25, 0.5, 0.75)],
        "hypertile": [(("tile", tile),) for tile in (128, 64, 32)],
        "deep_shrink": [(("end_percent", 0.2),), (("end_percent", 0.35),), (("end_percent", 1.0),)],
        "easy_cache": [(("threshold", one),) for one in (0.05, 0.1, 0.2)],
        "lazy_cache": [(("threshold", one),) for one in (0.01, 0.03, 0.1)],
    }
    titles = {"tome": "ToMe, limit lifted", "hypertile": "HyperTile", "deep_shrink": "Deep Shrink"}
    titles |= {"easy_cache": "EasyCache", "lazy_cache": "LazyCache"}
    rows = []
    for name, ways in strengths.items():
        for arguments in ways:
            label = ", ".join(f"{key} {value:g}" for key, value in arguments)
            rows.append(_row("peers", f"{titles[name]}, {label}", None, sizes.ablation, peer=Peer(name, arguments)))
    for threshold in (0.1, 0.2):
        for ratio in (0.4, 0.66):
            peer = Peer("easy_cache", (("threshold", threshold),))
            name = f"AT-EDM {ratio:g} and EasyCache, threshold {threshold:g}"
            rows.append(_row("peers", name, at_ratio(Pruning(), ratio), sizes.ablation, peer=peer))
    found = [("defaults", Pruning())]
    found += [solve.defaults_at(tome_share(dict(arguments)["ratio"])) for arguments in strengths["tome"]]
    rows += [_row("peers", name, pruning, sizes.ablation) for name, pruning in found]
    return rows + [_fewer("peers", "choose", sizes.ablation, BASE, steps) for steps in FEWER[20]]


def _ranking(sizes: Sizes) -> list[Row]:
    """How the paper's ranking is made, in the paper's schedule."""
    found = {f"{one} iterations": by_attention(iterations=one) for one in (1, 2, 3, 5, 10, 20)}
    found |= {f"{one} voters of 256": by_attention(f"{one} voters") for one in (16, 64)}
    found |= {f"ranked every {one}": by_attention(rank_interval=one) for one in (2, 4, 8, 20)}
    return [_row("ranking", name, in_papers_schedule(pruning), sizes.ablation) for name, pruning in found.items()]


def _blocks(sizes: Sizes) -> list[Row]:
    """Each of SDXL's deep blocks pruned alone, then all of them by the same ratio and by ratios of their own."""
    shares = [replace(share, offset=0.0) for share in SCHEDULE.block_shares]
    found = {f"{share.name} alone": Pruning(replace(SCHEDULE, block_shares=(share,))) for share in shares}
    found |= {"all alike": Pruning(ALIKE), "defaults": Pruning()}
    return [_row("blocks", name, pruning, sizes.map) for name, pruning in found.items()]


def _levels(sizes: Sizes, solve: _Solver) -> list[Row]:
    found = [(f"quarter level only (ratio {SCHEDULE.prune_ratio})", Pruning(ALIKE))]
    scales = {"half at 0.25": (1.0, 0.25, 1.0), "half at 0.5": HALF_LESS, "half at 0.75": (1.0, 0.75, 1.0)}
    scales |= {"both levels alike": BOTH_LEVELS, "half at 1.3": (1.0, 1.3, 1.0)}
    found += [solve(name, level_scales=levels) for name, levels in scales.items()]
    return [_row("levels", name, pruning, sizes.ablation) for name, pruning in found]


def _size(sizes: Sizes) -> list[Row]:
    """At twice the size that the models were trained at: as many tokens a block as SDXL has at 512 px."""
    large = replace(BASE, size=512)
    found = {
        "defaults": Pruning(),
        "recovery update": with_settings(recovery="update"),
        "copy, stand-in by cosine": with_settings(recovery="copy"),
        "random": by_attention("random"),
        "even grid": by_attention("even grid"),
        "paper's recipe": PAPER,
    }
    rows = [_row("size", name, pruning, sizes.map, sampling=large) for name, pruning in found.items()]
    return rows + [_fewer("size", "choose", sizes.map, large, steps) for steps in (12, 14, 19)]


def _samplers(sizes: Sizes) -> list[Row]:
    names = ("euler", "heun", "dpmpp_2m", "uni_pc", "lcm", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde")
    return [
        _row("samplers", f"{sampler}, {name}", pruning, sizes.map, sampling=replace(BASE, sampler=sampler))
        for sampler in names
        for name, pruning in {"defaults": Pruning(), "paper's recipe": PAPER}.items()
    ]


def _cfg(sizes: Sizes) -> list[Row]:
    return [
        _row("cfg", f"cfg {cfg:g}, {name}", pruning, sizes.map, sampling=replace(BASE, cfg=cfg))
        for cfg in (1.0, 2.0, 4.0, 7.0, 12.0)
        for name, pruning in {"defaults": Pruning(), "paper's recipe": PAPER}.items()
    ]


def _progress(sizes: Sizes) -> list[Row]:
    """Single-step errors of a run that is shown the unpruned latents, at the paper's ratio at every step."""
    always = replace(ALIKE, prune_ratio=PAPER_RATIO)
    found = {
        "paper's recipe": Pruning(always, PAPER_SETTINGS),
        "random": Pruning(always, GWPR, "random"),
        "G-WPR": Pruning(always, GWPR),
        "defaults": at_ratio(Pruning(), PAPER_RATIO),
        "all blocks alike": Pruning(always),
        "half level only": Pruning(replace(always, level_scales=(1.0, 1.0, 0.0))),
        "both levels alike": Pruning(replace(always, level_scales=BOTH_LEVELS)),
    }
    return [_row("progress", name, pruning, sizes.map, replay=True) for name, pruning in found.items()]


QUICK = ("paper's recipe", "defaults", "random", "even grid", "16 of 20 steps")


def quick(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """A few rows of the main table on a few captions."""
    return {"main": [replace(row, count=4) for row in rows["main"] if row.name in QUICK]}
