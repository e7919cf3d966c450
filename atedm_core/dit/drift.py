"""How keys and values move from step to step while nobody computes them, seen from those that are computed.

All keys of an attention are functions of the noise level through the block's modulation, so a part of their change is
the same for every token. Tokens that are recomputed show how far theirs have come since they were last; the others are
moved along by as much per step. That takes no memory but one vector for each attention.

R rows of a batch, K recomputed tokens, C channels of all heads together.
"""

from __future__ import annotations

from torch import Tensor


def drift_per_step(known: Tensor | None, kept: Tensor, new: Tensor, waited: Tensor) -> Tensor:
    """What a step adds to keys or values that are not recomputed.

    The slope through zero, by least squares over the tokens, of how far they were from where they had been moved to,
    against the steps that this took; the drift that they were moved by is added.

    Args:
        known: `[R, C]` float32, by which they were moved in the steps before; `None` if they were not.
        kept: `[R, K, C]`, the recomputed tokens' own as they were kept, moved up to the step before.
        new: `[R, K, C]`, as recomputed.
        waited: `[R, K]` float32, steps since the tokens were last recomputed, 1 or more.

    Returns:
        `[R, C]` float32.
    """
    wait = waited.unsqueeze(-1)
    off = new.float() - kept.float()
    if known is not None:
        off = off - known.unsqueeze(1)
    slope = (off * wait).sum(dim=1) / wait.square().sum(dim=1)
    return slope if known is None else known + slope
