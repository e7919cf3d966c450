"""What is measured side by side: the unpruned model, AT-EDM at all pruning points, peers, and both stacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..pack.atedm_core.unet.budget import budget_of
from ..pack.atedm_core.unet.ranking import RankTokens, rank_tokens
from ..pack.atedm_core.unet.schedule import DSAPSchedule
from ..pack.atedm_core.unet.settings import DEFAULT_SETTINGS, PRUNE_POINTS, PrunePoint, PruneSettings
from ..peers import PEERS

UNPRUNED = "unpruned"


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
    point: PrunePoint | None = None
    alone: bool = True


def unpruned(model: Any) -> Contender:
    """The model as it is."""
    return Contender(UNPRUNED, model)


def pruned(model: Any, ratio: float, points: Sequence[PrunePoint] = PRUNE_POINTS) -> list[Contender]:
    """AT-EDM at each of the points, of which the first is the default."""
    return [Contender(f"AT-EDM, {point}", apply(model, ratio, point), point) for point in points]


def peers(model: Any) -> list[Contender]:
    """Each peer on its own."""
    return [Contender(name, make(model), alone=False) for name, make in PEERS.items()]


def stacked(model: Any, ratio: float) -> list[Contender]:
    """Each peer with AT-EDM, put on before it as a user would put the node after the loader."""
    point = DEFAULT_SETTINGS.prune_from
    under = apply(model, ratio, point)
    return [Contender(f"AT-EDM + {name}", make(under), point, alone=False) for name, make in PEERS.items()]


def apply(model: Any, ratio: float, point: PrunePoint, rank: RankTokens = rank_tokens) -> Any:
    """AT-EDM as the node does it when nothing but the ratio and the pruning point is set.

    `rank` is what ranks where attention ranks, for a watch around it.
    """
    from ..pack.patches.unet.apply import apply_atedm

    return apply_atedm(model, DSAPSchedule(prune_ratio=ratio), PruneSettings(prune_from=point), rank=rank)


def default_ranking() -> str:
    """What ranks the tokens of the contenders."""
    return PruneSettings().ranking


def ideal_speed_up(model: Any, size: tuple[int, int], ratio: float, point: PrunePoint) -> float:
    """FLOPs of the whole model over those that `apply` leaves; `size` is (width, height) in pixels."""
    from ..pack.patches.unet.structure import describe_unet, supported_unet

    unet = describe_unet(supported_unet(model))
    latent = (size[1] // 8, size[0] // 8)
    return budget_of(unet, latent, DSAPSchedule(prune_ratio=ratio), PruneSettings(prune_from=point)).speed_up
