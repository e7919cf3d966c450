"""Rankings that a method has to beat, given to `apply_atedm` in place of the pack's own.

The pack offers none of them, and should not: nobody needs them but this lab.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...pack.atedm_core.unet.gwpr import combine_heads, gwpr, lattice_voters

RANDOM_SEED = 77
Ranking = Callable[..., Tensor]

_BAYER_2 = torch.tensor([[0, 2], [3, 1]])


def bayer(height: int, width: int) -> Tensor:
    """`[height, width]` int64: ordered-dither ranks, of which the first K are spread as evenly as K points can be."""
    ranks, edge = torch.zeros(1, 1, dtype=torch.int64), 1
    while edge < max(height, width):
        ranks = 4 * ranks.repeat(2, 2) + _BAYER_2.repeat_interleave(edge, 0).repeat_interleave(edge, 1)
        edge *= 2
    return ranks[:height, :width]


def _key_norm() -> Ranking:
    return lambda settings, attention, grid: combine_heads(attention.keys.float().norm(dim=-1))


def _random() -> Ranking:
    generator = torch.Generator().manual_seed(RANDOM_SEED)

    def rank(settings: Any, attention: Any, grid: tuple[int, int]) -> Tensor:
        samples, _, tokens, _ = attention.queries.shape
        return torch.rand(samples, tokens, generator=generator)

    return rank


def _reversed(rank_tokens: Ranking) -> Ranking:
    def rank(settings: Any, attention: Any, grid: tuple[int, int]) -> Tensor:
        return 1.0 / (rank_tokens(settings, attention, grid)).clamp_min(1e-12)

    return rank


def _even_grid(moves: bool) -> Ranking:
    calls = 0

    def rank(settings: Any, attention: Any, grid: tuple[int, int]) -> Tensor:
        nonlocal calls
        samples, _, tokens, _ = attention.queries.shape
        order = bayer(*grid)
        if moves:
            order = order.roll((calls * 3, calls * 5), dims=(0, 1))
        calls += 1
        return (1.0 / (1.0 + order)).flatten().expand(samples, tokens).contiguous()

    return rank


def _least_redundant(moves: bool = True) -> Ranking:
    """What ToMe goes by (Bolya and Hoffman, 2023): how alike tokens are.

    One token of every 2 x 2 cell is an anchor. The others stay the more, the less their keys are like those of the
    anchor most like them. Where it `moves`, another token of each cell is the anchor at the next ranking.
    """
    calls = 0

    def rank(settings: Any, attention: Any, grid: tuple[int, int]) -> Tensor:
        nonlocal calls
        keys = torch.nn.functional.normalize(attention.keys.float().transpose(1, 2).flatten(2), dim=-1)
        anchors = (bayer(2, 2).repeat(-(-grid[0] // 2), -(-grid[1] // 2))[: grid[0], : grid[1]] == calls % 4).flatten()
        calls += moves
        unlike = 1.0 - (keys @ keys[:, anchors].transpose(1, 2)).amax(dim=-1)
        return unlike.clamp_min(0.0).masked_fill(anchors, 3.0)

    return rank


def _with_voters(count: int) -> Ranking:
    def rank(settings: Any, attention: Any, grid: tuple[int, int]) -> Tensor:
        voters = lattice_voters(grid, count)
        known = attention.row_log_sum
        scores = gwpr(
            attention.queries, attention.keys, iterations=settings.iterations, row_log_sum=known, voters=voters
        )
        return combine_heads(scores)

    return rank


CONTROLS = (
    "random",
    "even grid",
    "moving grid",
    "key norm",
    "reversed G-WPR",
    "least redundant",
    "fixed least redundant",
)


def ranking(control: str | None, rank_tokens: Ranking) -> Ranking:
    """What ranks: the pack's own without a control, one of `CONTROLS`, or `N voters` for so many lattice voters.

    Raises:
        ValueError: another name.
    """
    if control is None:
        return rank_tokens
    if control.endswith(" voters"):
        return _with_voters(int(control.removesuffix(" voters")))
    if control == "reversed G-WPR":
        return _reversed(rank_tokens)
    made = {
        "random": _random,
        "even grid": lambda: _even_grid(False),
        "moving grid": lambda: _even_grid(True),
        "key norm": _key_norm,
        "least redundant": _least_redundant,
        "fixed least redundant": lambda: _least_redundant(False),
    }
    if control not in made:
        raise ValueError(f"control is {control!r}: choose one of {', '.join(CONTROLS)}, or a number of voters")
    return made[control]()
