"""How a picture is drawn, and what is asked of either lab: rows of cases, each measured against an unpruned run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from .captions import CaptionSet


@dataclass(frozen=True)
class Sampling:
    """How a picture is drawn; the defaults are those that the demo model was judged with.

    `dtype` is a name of PyTorch's, of the weights and of all that is computed in the model.
    """

    steps: int = 20
    cfg: float = 4.0
    sampler: str = "euler"
    scheduler: str = "normal"
    size: int = 256
    dtype: str = "float32"

    def told(self) -> dict[str, Any]:
        """The fields, for a case's key; float32 goes without saying."""
        found = asdict(self)
        return {name: value for name, value in found.items() if (name, value) != ("dtype", "float32")}


@dataclass(frozen=True)
class Peer:
    """Another accelerator on the model, by the name of its function in `peers`, and its arguments."""

    name: str
    arguments: tuple[tuple[str, float], ...] = ()


class Case(Protocol):
    """One way to draw pictures: plain data, made of nothing but its sampling where the model is left as it is."""

    @property
    def sampling(self) -> Sampling:
        """Sampler and steps."""

    @property
    def replay(self) -> bool:
        """Whether the model is shown the unpruned run's latents at every step instead of its own."""

    @property
    def unpruned(self) -> bool:
        """Whether nothing at all is done to the model."""

    @property
    def key(self) -> str:
        """A name for files: equal for cases that do the same, whatever the pack's defaults are today."""


@dataclass(frozen=True)
class Row:
    """A line of a table: a `Case` of either lab, measured against the unpruned run of `reference`."""

    group: str
    name: str
    case: Any
    captions: CaptionSet = "choose"
    count: int = 16
    against: Sampling | None = None

    @property
    def reference(self) -> Any:
        """The unpruned run it is compared with; by default that of the same sampling."""
        return type(self.case)(self.against or self.case.sampling)
