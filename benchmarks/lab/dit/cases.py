"""What is run: a way of sampling, and how tokens are chosen meanwhile. Plain data with a lasting key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ...pack.atedm_core.dit.schedule import CATSchedule
from ...pack.atedm_core.dit.selection import CATSelection
from ..cases import Peer, Sampling

PUBLISHED_SELECTION = CATSelection()
PUBLISHED_SCHEDULE = CATSchedule()


@dataclass(frozen=True)
class CATPruning:
    """CAT Pruning on the model.

    Attributes:
        selection: which tokens.
        schedule: which steps.
        control: what chooses in the selection's place (see `controls`), or nothing.
    """

    selection: CATSelection = field(default_factory=CATSelection)
    schedule: CATSchedule = field(default_factory=CATSchedule)
    control: str | None = None


@dataclass(frozen=True)
class CATCase:
    """One way to draw pictures, as a `cases.Case`.

    Attributes:
        sampling: sampler and steps.
        pruning: CAT Pruning, or not.
        held: after so many steps the last velocity is kept to the end, without any further call of the model.
        peer: another accelerator alone.
        compute: share of evaluations that Step Forecast leaves real, beside or without pruning; `None` for all.
        speed_up: what AT-EDM Auto is asked for, alone; `None` without it.
    """

    sampling: Sampling = field(default_factory=Sampling)
    pruning: CATPruning | None = None
    held: int | None = None
    peer: Peer | None = None
    replay: bool = False
    compute: float | None = None
    speed_up: float | None = None

    @property
    def unpruned(self) -> bool:
        """Whether nothing at all is done to the model."""
        return all(one is None for one in (self.pruning, self.held, self.peer, self.compute, self.speed_up))

    @property
    def key(self) -> str:
        """A name for files: equal for cases that do the same, whatever the pack's defaults are today."""
        told: dict[str, Any] = {"model": "transformer", "sampling": self.sampling.told(), "held": self.held}
        if self.pruning is not None:
            told["selection"], told["schedule"] = asdict(self.pruning.selection), asdict(self.pruning.schedule)
            told["control"] = self.pruning.control
            if self.pruning.selection.choose_by == "expected error":
                told["held"] = "clean latent, repaid"
        if self.peer is not None:
            told["peer"] = asdict(self.peer)
        if self.compute is not None:
            told["compute"] = self.compute
        if self.speed_up is not None:
            told["auto"] = self.speed_up
        return hashlib.sha1(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
