"""The head start: the demo model's weights in the deeper model, wherever they fit."""

from __future__ import annotations

import torch
from torch import nn

from ..store import DEFAULT_FILE, DemoFile, read
from ..text import TABLE
from ..trainee import Trainee

BRANCH_ENDS = ("attn1.to_out.0", "attn2.to_out.0", "ff.net.2")  # of a transformer layer


@torch.no_grad()
def head_start(trainee: Trainee, source: DemoFile | None = None) -> int:
    """Copy the demo's weights by name; transformer layers it lacks start as the identity. Returns how many were copied.

    Words it knows keep their rows of the embedding tables.
    """
    source = source or read(DEFAULT_FILE)
    copied = 0
    for module, weights in ((trainee.unet, source.unet), (trainee.text, source.text)):
        for name, weight in module.state_dict().items():
            known = weights.get(name)
            if known is not None and name.endswith(TABLE):
                _copy_rows(weight, trainee.captions.stored, known, source.tokens)
                copied += 1
            elif known is not None and known.shape == weight.shape:
                weight.copy_(known)
                copied += 1
            elif known is None and name.rpartition(".")[0].endswith(BRANCH_ENDS):
                weight.zero_()
    return copied


def _copy_rows(table: torch.Tensor, stored: torch.Tensor, known: torch.Tensor, tokens: list[int]) -> None:
    rows = {token: row for row, token in enumerate(tokens)}
    for row, token in enumerate(stored.tolist()):
        if token in rows:
            table[row] = known[rows[token]].to(table.dtype)
    table[-1] = known[-1].to(table.dtype)


def is_identity(layer: nn.Module) -> bool:
    """Whether a transformer layer leaves its tokens as they are."""
    ends = [layer.get_submodule(end) for end in BRANCH_ENDS]
    return all(not parameter.any() for end in ends for parameter in end.parameters())
