"""What a pruned call takes from the calls before it: keys and values of every attention, and the output of every token.

R rows of a batch (conditions times images), N image tokens, L text tokens, K selected tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...atedm_core.dit.drift import drift_per_step
from ...atedm_core.dit.holding import HeldLatent
from ...atedm_core.tokens import gather_tokens

Conditions = tuple[Hashable, ...]
"""Uuids of the conditions that are batched in a call, in that order."""


@dataclass
class AttentionMemory:
    """Keys and values of one attention, text first: `[R, L + N, ...]` each, and the mask that was used with them.

    `drift` is what a step adds to either where it is not recomputed, `[R, C]` each; `None` while nobody knows.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None
    drift: tuple[Tensor, Tensor] | None = None

    def nbytes(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.values.nbytes

    def merge(self, keys: Tensor, values: Tensor, selected: Tensor, tokens: int, waited: Tensor | None = None) -> None:
        """Put new keys and values in place: those of the text, which come first, and of the selected tokens.

        Args:
            keys: `[R, L + K, ...]`; its text part may be empty.
            values: likewise.
            selected: `[R, K]` int64, positions among the N image tokens.
            tokens: N.
            waited: `[R, K]` float32, steps since the selected tokens were last recomputed: the others are then moved by
                the drift of these. `None` leaves them as they are.
        """
        text = keys.shape[1] - selected.shape[1]
        if self.keys.shape[1] != text + tokens:
            raise RuntimeError(f"{self.keys.shape[1] - tokens} text tokens became {text} within a run")
        if waited is not None:
            known = self.drift or (None, None)
            of_keys = _moved(self.keys, keys, known[0], selected, waited)
            self.drift = (of_keys, _moved(self.values, values, known[1], selected, waited))
        for kept, new in ((self.keys, keys), (self.values, values)):
            kept[:, :text] = new[:, :text]
            kept.flatten(0, 1).index_copy_(
                0, _flat(selected, kept.shape[1], text), new[:, text:].flatten(0, 1).to(kept.dtype)
            )

    def split(self, parts: int) -> list[AttentionMemory]:
        """Copies of its rows in equal parts."""
        masks = [None] * parts if self.mask is None else self.mask.chunk(parts)
        drifts = [None] * parts if self.drift is None else zip(*(one.chunk(parts) for one in self.drift), strict=True)
        pairs = zip(self.keys.chunk(parts), self.values.chunk(parts), masks, drifts, strict=True)
        return [AttentionMemory(keys.clone(), values.clone(), mask, drift) for keys, values, mask, drift in pairs]

    @staticmethod
    def join(parts: Sequence[AttentionMemory]) -> AttentionMemory:
        """The rows of several, copied."""
        masks = [one.mask for one in parts if one.mask is not None]
        keys, values = torch.cat([one.keys for one in parts]), torch.cat([one.values for one in parts])
        drifts = [one.drift for one in parts if one.drift is not None]
        joined = [torch.cat(rows) for rows in zip(*drifts, strict=True)] if len(drifts) == len(parts) else []
        drift = (joined[0], joined[1]) if joined else None
        return AttentionMemory(keys, values, torch.cat(masks) if masks else None, drift)


@dataclass
class CallMemory:
    """Everything kept for the conditions that are batched in one call.

    Attributes:
        attentions: in the order in which the model runs them.
        output: `[R, ..., D]`, the last output of every token before it is put back on the grid, in the places that the
            model gives them: N, or rows and columns; `None` until recorded.
        held: the clean latent that stands for tokens that are left out; `None` where their output does.
        earlier: by condition, what was held before a call of all tokens, until that has ended.
    """

    attentions: list[AttentionMemory] = field(default_factory=list)
    output: Tensor | None = None
    held: HeldLatent | None = None
    earlier: list[HeldLatent | None] = field(default_factory=list)

    def whole(self, attentions: int) -> bool:
        """Whether it is enough to run a model of so many attentions on selected tokens."""
        return self.output is not None and len(self.attentions) == attentions

    def nbytes(self) -> int:
        """Bytes held in keys and values."""
        return sum(one.nbytes() for one in self.attentions)

    def update(self, output: Tensor, selected: Tensor) -> Tensor:
        """Replace the selected tokens' output (`[R, ..., D]`); returns that of all tokens, to be changed freely."""
        assert self.output is not None
        row = self.output[0].flatten(0, -2).shape[0]
        self.output.flatten(0, -2).index_copy_(0, _flat(selected, row), output.flatten(0, -2))
        return self.output.clone()

    def split(self, parts: int) -> list[CallMemory]:
        """Its rows in equal parts. It is empty afterwards, so that no more than one attention is held twice."""
        outputs = [None] * parts if self.output is None else [one.clone() for one in self.output.chunk(parts)]
        held = [None] * parts if self.held is None else self.held.split(parts)
        made = [CallMemory([], *rows) for rows in zip(outputs, held, strict=True)]
        while self.attentions:
            for one, attention in zip(made, self.attentions.pop(0).split(parts), strict=True):
                one.attentions.append(attention)
        return made

    @staticmethod
    def join(parts: Sequence[CallMemory]) -> CallMemory | None:
        """The rows of several, which are empty afterwards; `None` if they differ in what they hold."""
        shapes = {tuple((one.keys.shape[1:], one.mask is None) for one in part.attentions) for part in parts}
        outputs = [part.output for part in parts if part.output is not None]
        if len(shapes) > 1 or len(outputs) < len(parts):
            return None
        held = [part.held for part in parts if part.held is not None]
        made = CallMemory([], torch.cat(outputs), HeldLatent.join(held) if len(held) == len(parts) else None)
        while parts[0].attentions:
            made.attentions.append(AttentionMemory.join([part.attentions.pop(0) for part in parts]))
        return made


class KVCache:
    """What is kept of every condition in a run, in the batches in which the host ran them last.

    The host decides at every call which conditions it batches. Where it changes its mind, rows are moved once.
    """

    def __init__(self) -> None:
        self._calls: dict[Conditions, CallMemory] = {}

    def of(self, conditions: Conditions) -> CallMemory | None:
        """What is kept of these together. `None` if one is missing or they cannot be batched; then none stays."""
        if conditions not in self._calls:
            self._separate(conditions)
            alone = [memory for one in conditions if (memory := self._calls.pop((one,), None)) is not None]
            joined = CallMemory.join(alone) if len(alone) == len(conditions) else None
            if joined is not None:
                self._calls[conditions] = joined
        return self._calls.get(conditions)

    def held_of(self, conditions: Conditions) -> list[HeldLatent | None]:
        """What stands for left-out tokens of each of these, without moving any keys and values."""
        rows: dict[Hashable, HeldLatent] = {}
        for known, memory in self._calls.items():
            if memory.held is not None and not {*known}.isdisjoint(conditions):
                rows |= zip(known, memory.held.split(len(known)), strict=True)
        return [rows.get(one) for one in conditions]

    def put(self, conditions: Conditions, memory: CallMemory) -> None:
        """Keep this, of conditions of which nothing is kept."""
        self._calls[conditions] = memory

    def drop(self, conditions: Iterable[Hashable]) -> None:
        """Forget these conditions, and no other."""
        gone = {*conditions}
        for known in [known for known in self._calls if gone.issuperset(known)]:
            del self._calls[known]
        self._separate(gone)
        for one in gone:
            self._calls.pop((one,), None)

    def drop_all_but(self, conditions: Iterable[Hashable]) -> None:
        """Forget all other conditions."""
        self.drop({one for known in self._calls for one in known}.difference(conditions))

    def clear(self) -> None:
        """Forget everything."""
        self._calls.clear()

    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return sum(memory.nbytes() for memory in self._calls.values())

    def _separate(self, conditions: Iterable[Hashable]) -> None:
        """Give every condition that was batched with one of these a memory of its own."""
        for known in [known for known in self._calls if len(known) > 1 and not {*known}.isdisjoint(conditions)]:
            alone = self._calls.pop(known).split(len(known))
            self._calls |= {(one,): memory for one, memory in zip(known, alone, strict=True)}


def own(tensor: Tensor) -> Tensor:
    """The tensor without the rest of what its memory holds: a copy, unless there is no rest and it is contiguous."""
    alone = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if alone and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def _moved(kept: Tensor, new: Tensor, drift: Tensor | None, selected: Tensor, waited: Tensor) -> Tensor:
    """The drift that the selected tokens' new keys or values show; what is kept of the image is moved by it."""
    text = new.shape[1] - selected.shape[1]
    own = gather_tokens(kept[:, text:].flatten(2), selected)
    found = drift_per_step(drift, own, new[:, text:].flatten(2), waited)
    kept[:, text:] += found.view(-1, 1, *kept.shape[2:]).to(kept.dtype)
    return found


def _flat(selected: Tensor, row: int, first: int = 0) -> Tensor:
    """Positions `[R, K]` of image tokens, as places among all rows: `row` long each, the image beginning at `first`."""
    starts = torch.arange(first, first + selected.shape[0] * row, row, device=selected.device)
    return (selected + starts.unsqueeze(1)).flatten()
