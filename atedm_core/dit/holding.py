"""What stands for the tokens that are left out, and how they make up for it once they are computed again.

A token that is left out keeps the clean latent that was last predicted for it, while its prediction would have moved
on. Once it is computed again, the line between both predictions says what the steps in between should have had. What
they lacked is given then, at once, weighed by what predictions of these steps count for in the result. So a token's
error does not add up over a run, as far as its way was a line and the sampler's steps are known.

R rows of a batch, C channels. Maps `[R, 1, ..., H, W]` say for every place of a latent what holds for its token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..forecast_schedule import StepShare

MOST_REPAID = 1.0
"""In lengths of the way from the old prediction to the new one: a token that waited long is not thrown about."""
_SAME_PLACE = 1e-4


@dataclass
class HeldLatent:
    """Of the conditions that are batched in a call.

    Attributes:
        clean: `[R, C, ..., H, W]`, the clean latent as predicted when each token was last computed.
        place: a float32 map, half the log-SNR (`forecast.half_log_snr`) at which that was.
        owed: a float32 map, the sum over the steps since of their weight times their distance from `place`.
    """

    clean: Tensor
    place: Tensor
    owed: Tensor

    @staticmethod
    def of(clean: Tensor, place: float) -> HeldLatent:
        """Every token computed, nothing owed yet."""
        where = torch.full_like(clean[:, :1], place, dtype=torch.float32)
        return HeldLatent(clean.clone(), where, torch.zeros_like(where))

    def fits(self, clean: Tensor) -> bool:
        """Whether a clean latent is of the same pictures as far as can be seen."""
        return self.clean.shape == clean.shape and self.clean.device == clean.device

    def settle(self, clean: Tensor, computed: Tensor | None, place: float, step: StepShare) -> Tensor:
        """The clean latent to go on with after a step, `[R, C, ..., H, W]`, and the step taken in.

        Args:
            clean: as predicted; what it says of tokens that were left out is not looked at.
            computed: a bool map of the tokens that were computed; `None` for all.
            place: half the log-SNR.
            step: what its prediction is to the result of the run.
        """
        computed = torch.ones_like(self.place, dtype=torch.bool) if computed is None else computed
        way = place - self.place
        given = torch.where(computed, clean, self.clean)
        if step.repays:
            share = (self.owed / (step.weight * way)).clamp(-MOST_REPAID, MOST_REPAID)
            share = torch.where(computed & (way > _SAME_PLACE), share, 0.0)
            given = given + share.to(clean.dtype) * (given - self.clean)
        self.clean = torch.where(computed, clean, self.clean)
        self.place = torch.where(computed, place, self.place)
        self.owed = torch.where(computed, 0.0, self.owed + step.weight * way)
        return given

    def forgive(self, counts: Tensor) -> None:
        """Nothing is owed where a bool map says that predictions do not count."""
        self.owed = torch.where(counts, self.owed, 0.0)

    def split(self, parts: int) -> list[HeldLatent]:
        """Copies of its rows in equal parts."""
        rows = zip(*(one.chunk(parts) for one in (self.clean, self.place, self.owed)), strict=True)
        return [HeldLatent(*(one.clone() for one in part)) for part in rows]

    @staticmethod
    def join(parts: Sequence[HeldLatent]) -> HeldLatent:
        """The rows of several, copied."""
        return HeldLatent(
            torch.cat([part.clean for part in parts]),
            torch.cat([part.place for part in parts]),
            torch.cat([part.owed for part in parts]),
        )
