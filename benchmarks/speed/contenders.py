"""What is measured side by side: the unpruned model, AT-EDM at its three pruning points, peers, and both stacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..pack.atedm_core.unet.flops import unet_flops
from ..pack.atedm_core.unet.ranking import RankTokens, rank_tokens
from ..pack.atedm_core.unet.schedule import DSAPSchedule
from ..pack.atedm_core.unet.settings import PrunePoint, PruneSettings
from ..peers import PEERS

UNPRUNED = "unpruned"
POINTS = ("after first layer", "inside first layer", "block start")
STACKED_POINT = "inside first layer"


@dataclass(frozen=True)
class Contender:
    """A model to run.

    Attributes:
        name: in tables.
        model: a ComfyUI MODEL.
        point: where AT-EDM drops tokens, `None` where it does not take part.
        alone: whether nothing but AT-EDM is on the model, so that FLOPs say what is possible.
    """

    name: str
    model: Any
    point: str | None = None
    alone: bool = True


def unpruned(model: Any) -> Contender:
    """The model as it is."""
    return Contender(UNPRUNED, model)


def pruned(model: Any, ratio: float, points: list[str]) -> list[Contender]:
    """AT-EDM at each of the points."""
    return [Contender(f"AT-EDM, {point}", apply(model, ratio, point), point) for point in points]


def peers(model: Any) -> list[Contender]:
    """Each peer on its own."""
    return [Contender(name, make(model), alone=False) for name, make in PEERS.items()]


def stacked(model: Any, ratio: float) -> list[Contender]:
    """Each peer with AT-EDM, put on before it as a user would put the node after the loader."""
    under = apply(model, ratio, STACKED_POINT)
    return [Contender(f"AT-EDM + {name}", make(under), STACKED_POINT, alone=False) for name, make in PEERS.items()]


def apply(model: Any, ratio: float, point: PrunePoint, rank: RankTokens = rank_tokens) -> Any:
    """AT-EDM with its default settings at one pruning point, all blocks pruned from the first step on.

    `rank` is what ranks where attention ranks, for a watch around it.
    """
    from ..pack.patches.unet.apply import apply_atedm

    schedule = DSAPSchedule(prune_ratio=ratio, early_percent=0.0)
    return apply_atedm(model, schedule, PruneSettings(prune_from=point), rank=rank)


def default_ranking() -> str:
    """What ranks the tokens of the contenders."""
    return PruneSettings().ranking


def ideal_speed_up(model: Any, size: tuple[int, int], ratio: float, point: str) -> float:
    """FLOPs of the whole model over those left; `size` is (width, height) in pixels."""
    from ..pack.patches.unet.structure import describe_unet, supported_unet

    unet = describe_unet(supported_unet(model))
    latent = (size[1] // 8, size[0] // 8)
    return unet_flops(unet, latent) / unet_flops(unet, latent, ratio, point=point)
