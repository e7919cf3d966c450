"""What a pruned call takes from the calls before it: keys and values of every attention, and the output of every token.

R rows of a batch (conditions times images), N image tokens, L text tokens, K selected tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class AttentionMemory:
    """Keys and values of one attention, text first: `[R, L + N, ...]` each, and the mask that was used with them."""

    keys: Tensor
    values: Tensor
    mask: Any = None

    def nbytes(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.values.nbytes

    def merge(self, keys: Tensor, values: Tensor, selected: Tensor, tokens: int) -> None:
        """Put new keys and values in place: those of the text, which come first, and of the selected tokens.

        Args:
            keys: `[R, L + K, ...]`; its text part may be empty.
            values: likewise.
            selected: `[R, K]` int64, positions among the N image tokens.
            tokens: N.
        """
        for kept, new in ((self.keys, keys), (self.values, values)):
            text = new.shape[1] - selected.shape[1]
            if kept.shape[1] != text + tokens:
                raise RuntimeError(
                    f"CAT Pruning: {kept.shape[1]} keys were kept for {tokens} image tokens, and now there are {text} "
                    "text tokens. The text must keep its length within a run; please report this workflow."
                )
            kept[:, :text] = new[:, :text]
            starts = torch.arange(text, kept.shape[0] * kept.shape[1], kept.shape[1], device=selected.device)
            rows = (selected + starts.unsqueeze(1)).flatten()
            kept.flatten(0, 1).index_copy_(0, rows, new[:, text:].flatten(0, 1).to(kept.dtype))


@dataclass
class CallMemory:
    """Everything kept for the conditions that were batched in one call, in that order.

    Attributes:
        attentions: in the order in which the model runs them.
        output: `[R, N, D]`, the last output of every token before it is put back on the grid; `None` until recorded.
    """

    attentions: list[AttentionMemory] = field(default_factory=list)
    output: Tensor | None = None

    def whole(self, attentions: int) -> bool:
        """Whether it is enough to run a model of so many attentions on selected tokens."""
        return self.output is not None and len(self.attentions) == attentions

    def nbytes(self) -> int:
        """Bytes held in keys and values."""
        return sum(one.nbytes() for one in self.attentions)

    def update(self, output: Tensor, selected: Tensor) -> Tensor:
        """Replace the output of the selected tokens (`[R, K, D]`); returns that of all tokens, to be changed freely."""
        assert self.output is not None
        rows, tokens, _ = self.output.shape
        starts = torch.arange(0, rows * tokens, tokens, device=selected.device)
        places = (selected + starts.unsqueeze(1)).flatten()
        self.output.flatten(0, 1).index_copy_(0, places, output.flatten(0, 1))
        return self.output.clone()


def own(tensor: Tensor) -> Tensor:
    """The tensor without the rest of what its memory holds: a copy, unless there is no rest and it is contiguous."""
    alone = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if alone and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)
