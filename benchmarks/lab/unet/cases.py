"""What is run on the U-Net: a way of sampling, and what is done to the model meanwhile. Data with a lasting key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ...pack.atedm_core.unet.schedule import PAPER_SCHEDULE, DSAPSchedule
from ...pack.atedm_core.unet.settings import PAPER_SETTINGS, PruneSettings
from ..cases import Peer, Sampling
from .sdxl import SDXL_SCHEDULE


@dataclass(frozen=True)
class Pruning:
    """AT-EDM on the model.

    Attributes:
        schedule: how much.
        settings: how.
        control: what ranks in G-WPR's place, or another number of voters (see `controls`).
    """

    schedule: DSAPSchedule = SDXL_SCHEDULE
    settings: PruneSettings = field(default_factory=PruneSettings)
    control: str | None = None


@dataclass(frozen=True)
class Case:
    """One way to draw pictures, as a `cases.Case`.

    Attributes:
        sampling: sampler and steps.
        pruning: AT-EDM, or not.
        peer: another accelerator beside it or alone.
        replay: the model is shown the unpruned run's latents at every step instead of its own.
    """

    sampling: Sampling = field(default_factory=Sampling)
    pruning: Pruning | None = None
    peer: Peer | None = None
    replay: bool = False

    @property
    def unpruned(self) -> bool:
        """Whether nothing at all is done to the model."""
        return self.pruning is None and self.peer is None

    @property
    def key(self) -> str:
        """A name for files: equal for cases that do the same, whatever the pack's defaults are today."""
        told: dict[str, Any] = {"sampling": self.sampling.told()}
        if self.pruning is not None:
            told["schedule"] = _told(self.pruning.schedule, PAPER_SCHEDULE)
            told["settings"] = _told(self.pruning.settings, PAPER_SETTINGS)
            told["control"] = self.pruning.control
        if self.peer is not None:
            told["peer"] = asdict(self.peer)
        if self.replay:
            told["replay"] = True
        return hashlib.sha1(json.dumps(told, sort_keys=True, default=vars).encode()).hexdigest()[:16]


def _told(value: Any, silent: Any) -> dict[str, Any]:
    """The fields that differ from `silent`: a field that the pack gains later does not change the keys of old cases."""
    return {
        one.name: getattr(value, one.name)
        for one in fields(value)
        if getattr(value, one.name) != getattr(silent, one.name)
    }
