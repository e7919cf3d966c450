"""What a seed stands for: a model, a picture, a sampler, conditions, the nodes of the pack and a neighbour."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .models import FAMILIES
from .neighbours import NEIGHBOURS, draw_neighbour

Inputs = dict[str, Any]
NodeCall = tuple[str, Inputs]
CHECKS = ("off", "repeat", "in turn", "in threads", "interrupt", "unpatched", "report", "batch")
OF_ALL_PICTURES = {"StepForecastApply", "ATEDMAuto"}  # an evaluation is left out for a whole batch or not at all
WITHOUT_NOISE = ("euler", "heun", "dpm_2", "dpmpp_2m", "lms", "uni_pc", "ipndm", "res_multistep", "deis")
UNET_NODES = ("ATEDMApply", "ATEDMApply", "StepForecastApply", "ATEDMAuto")
TRANSFORMER_NODES = ("CATPruningApply", "CATPruningApply", "StepForecastApply", "ATEDMAuto")
VALUES = ("FLOAT", "INT", "COMBO", "BOOLEAN")
CHEAP_SAMPLERS = 0.9  # dpm_adaptive takes dozens of calls and says little that the others do not
MOST_IN_HALF = 5
MANY_CELLS = 100
STEPS = (1, 2, 2, 3, 3, 4, 5, 8, 12)
MOST_IN_UNET, MOST_IN_TRANSFORMER, AS_DRAWN = 10, 24, 0.05  # pictures times steps
HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class Condition:
    """One entry of a CONDITIONING: lengths and numbers, from which its tensors are made."""

    seed: int
    tokens: int
    area: tuple[int, int, int, int] | None = None
    mask: bool = False
    span: tuple[float, float] | None = None
    strength: float = 1.0


@dataclass(frozen=True)
class Case:
    """A configuration. `nodes` are the pack's, in order; `others` are those of a second clone of the same model."""

    seed: int
    family: str
    dtype: str
    cells: tuple[int, int]
    batch: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float
    inpaint: bool
    positive: tuple[Condition, ...]
    negative: tuple[Condition, ...]
    nodes: tuple[NodeCall, ...]
    others: tuple[NodeCall, ...]
    neighbour: NodeCall | None
    neighbour_first: bool
    check: str
    control: bool


def draw_case(seed: int, host: Any) -> Case:
    """The configuration of a seed, on a `host` that gives nodes by their id."""
    from comfy.samplers import SAMPLER_NAMES, SCHEDULER_NAMES

    rng = random.Random(seed)
    family = rng.choice([name for name in sorted(FAMILIES) for _ in range(FAMILIES[name].share)])
    unet = FAMILIES[family].unet
    dtype = rng.choice(HALF) if rng.random() < 0.1 else "float32"
    cells = (_side(rng, family), _side(rng, family))
    if dtype != "float32" and FAMILIES[family].unet:  # convolutions in half precision take a CPU minutes
        cells = (min(cells[0], MOST_IN_HALF), min(cells[1], MOST_IN_HALF))
    sampler = rng.choice(SAMPLER_NAMES)
    if sampler == "dpm_adaptive" and rng.random() < CHEAP_SAMPLERS:
        sampler = "euler"
    nodes, check = _nodes(rng, host, unet), rng.choice(CHECKS)
    if check == "batch" and (family == "svd" or {node for node, _ in nodes} & OF_ALL_PICTURES):
        check = "repeat"
    if check == "in threads" and sampler not in WITHOUT_NOISE:
        sampler = "euler"  # noise may come from the generator that both threads draw from
    most = 2 if cells[0] * cells[1] > 400 else 3
    batch = FAMILIES[family].frames or (2 if check == "batch" else rng.choice((1, 1, 1, 2, 3)[: most + 2]))
    positive, negative = _conditions(rng, family, cells, 3), _conditions(rng, family, cells, 2)
    return Case(
        seed=seed,
        family=family,
        dtype=dtype,
        cells=cells,
        batch=batch,
        steps=_steps(rng, unet, cells[0] * cells[1], batch * (len(positive) + len(negative))),
        cfg=rng.choice((1.0, 1.5, 4.0, 7.0)),
        sampler=sampler,
        scheduler=rng.choice(SCHEDULER_NAMES),
        denoise=rng.choice((1.0, 1.0, 0.6, 0.3)),
        inpaint=rng.random() < 0.1,
        positive=positive,
        negative=negative,
        nodes=nodes,
        others=_nodes(rng, host, unet),
        neighbour=draw_neighbour(rng, unet) if rng.random() < 0.25 and NEIGHBOURS else None,
        neighbour_first=rng.random() < 0.5,
        check=check,
        control=unet and family != "svd" and dtype == "float32" and rng.random() < 0.1,
    )


def draw_inputs(rng: random.Random, kind: Any) -> Inputs:
    """A value within its limits for every input of a node that is not a link."""
    return {one.id: _value(rng, one) for one in kind.GET_SCHEMA().inputs if one.get_io_type() in VALUES}


def describe(case: Case) -> Mapping[str, Any]:
    """A configuration by the names of its parts, without what is as usual."""
    return {name: value for name, value in vars(case).items() if value not in (None, False, ())}


def _steps(rng: random.Random, unet: bool, cells: int, pictures: int) -> int:
    """How many; few where one is slow, except now and then."""
    steps = rng.choice(STEPS)
    if rng.random() < AS_DRAWN:
        return steps
    affordable = (MOST_IN_UNET if unet else MOST_IN_TRANSFORMER) // (pictures if cells < MANY_CELLS else 2 * pictures)
    return min(steps, max(1, affordable))


def _side(rng: random.Random, family: str) -> int:
    """Latent cells, few more often: that is quick, and what is odd happens there."""
    (least, most), multiple = FAMILIES[family].cells, FAMILIES[family].multiple
    return (least + int((most - least) * rng.random() ** 4 + 0.5)) // multiple * multiple


def _value(rng: random.Random, one: Any) -> Any:
    options = getattr(one, "options", None)
    if options:
        return rng.choice(list(options))
    if one.get_io_type() == "BOOLEAN":
        return rng.random() < 0.5
    way = rng.random()
    if way < 0.25:
        return one.default
    if way < 0.4:
        return rng.choice((one.min, one.max))
    return rng.randint(one.min, one.max) if one.get_io_type() == "INT" else round(rng.uniform(one.min, one.max), 3)


def _nodes(rng: random.Random, host: Any, unet: bool) -> tuple[NodeCall, ...]:
    offered = UNET_NODES if unet else TRANSFORMER_NODES
    chosen = [rng.choice(offered) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    if rng.random() < 0.02:
        chosen.append("CATPruningApply" if unet else "ATEDMApply")  # of the wrong kind: a sentence, or nothing
    calls = []
    for node_id in chosen:
        inputs = draw_inputs(rng, host.node(node_id))
        if node_id == "ATEDMApply" and rng.random() < 0.7:
            inputs["schedule"] = draw_inputs(rng, host.node("ATEDMSchedule"))
            if rng.random() < 0.9:  # few models have attention at the highest and the lowest level
                inputs["schedule"] |= {"full_level": 1.0, "eighth_level": 1.0}
        if node_id == "ATEDMApply" and rng.random() < 0.1:
            inputs["budget"] = {**draw_inputs(rng, host.node("ATEDMBudget")), "width": 256, "height": 256}
        calls.append((node_id, inputs))
    return tuple(calls)


def _conditions(rng: random.Random, family: str, cells: tuple[int, int], most: int) -> tuple[Condition, ...]:
    count = 1 if rng.random() < 0.7 else rng.randint(1, most)
    return tuple(_condition(rng, family, cells, first=number == 0) for number in range(count))


def _condition(rng: random.Random, family: str, cells: tuple[int, int], first: bool) -> Condition:
    tokens = rng.choice(FAMILIES[family].lengths)
    area = None
    if rng.random() < 0.15:
        height, width = (rng.randint(1, side) for side in cells)
        area = (height, width, rng.randint(0, cells[0] - height), rng.randint(0, cells[1] - width))
    span = None if first or rng.random() < 0.5 else tuple(sorted((rng.random(), rng.random())))
    return Condition(
        seed=rng.randint(1, 9),
        tokens=tokens,
        area=area,
        mask=rng.random() < 0.12,
        span=None if span is None else (span[0], span[1]),
        strength=rng.choice((1.0, 1.0, 0.5)),
    )
