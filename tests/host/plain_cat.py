"""CAT Pruning as its description has it, all tokens carried: what compact execution must equal.

Every token runs through every layer of the host. Keys and values of unselected tokens are replaced by those they had,
where attention takes them in, and their output by the output they had. Where it is told how long the others had waited,
what is kept of keys and values first moves by the drift of these. Unselected tokens can keep their predicted clean
latent in place of their output; once they are computed again they get what the steps in between should have had more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

MOST_REPAID = 1.0
FIRST_BLOCK = {"NextDiT": "layers.0", "SingleStreamDiT": "blocks.0"}
"""Of models whose attentions before it refine the text or the image alone."""


class PlainExecution:
    """One model's calls, one after the other. What is kept belongs to a condition, however they were batched."""

    def __init__(self, model: Any, tokens: int, holds_clean: bool = False) -> None:
        self.model = model
        self.holds_clean = holds_clean
        # what Z-Image adds to fill up lies after the image and is new in every step
        multiple = getattr(model.model.diffusion_model, "pad_tokens_multiple", None) or 1
        self.filling = -tokens % multiple
        self.tokens = tokens + self.filling
        # by condition, of every step: half the log-SNR, weight, where tokens were computed, where predictions counted,
        # and what stood there then
        self.past: dict[Any, list[tuple[float, float, Tensor, Tensor, Tensor]]] = {}
        self.known: dict[Any, tuple[list[list[Tensor]], Tensor]] = {}
        # of every attention: keys and values, and the drift of both
        self.kept: list[list[Tensor]] = []
        self.output: Tensor | None = None

    def call(
        self,
        inputs: dict[str, Any],
        selected: Tensor | None,
        waited: Tensor | None = None,
        place: float = 0.0,
        share: Any = None,
        opened: Tensor | None = None,
    ) -> Tensor:
        """The model's answer; with `selected` (`[R, K]`), only those tokens are new, after so many steps (`[R, K]`).

        At half a log-SNR of `place`, in a step with this `StepShare`, for tokens that an inpainting mask has `opened`.
        """
        self._number = self._asked = 0
        self._refining = type(self.model.model.diffusion_model).__name__ in FIRST_BLOCK
        self._waited = None
        if selected is not None and self.filling:
            added = torch.arange(self.tokens - self.filling, self.tokens).expand(len(selected), -1)
            selected = torch.cat((selected, added), dim=1)
            waited = None if waited is None else torch.cat((waited, torch.ones(added.shape)), dim=1)
        if selected is not None and waited is not None:
            self._waited = torch.zeros(len(selected), self.tokens)
            for row, chosen, steps in zip(self._waited, selected, waited, strict=True):
                row[chosen] = steps
        self._fresh = None if selected is None else _flags(selected, self.tokens)
        options = dict(inputs["transformer_options"], optimized_attention_override=self._override)
        uuids = options["uuids"]
        if selected is not None:
            kept = zip(*(self.known[one][0] for one in uuids), strict=True)
            self.kept = [[torch.cat(rows) for rows in zip(*pairs, strict=True)] for pairs in kept]
            self.output = torch.cat([self.known[one][1] for one in uuids])
        with self._hooks(), torch.inference_mode():
            answer: Tensor = self.model.model.apply_model(**{**inputs, "transformer_options": options})
        assert self.output is not None
        if self.holds_clean:
            every = torch.ones_like(answer[:, :1], dtype=torch.bool)
            where = every if selected is None else self._on_latent(answer, self._fresh)
            counts = every if opened is None else self._on_latent(answer, opened.repeat(len(uuids), 1))
            rows = zip(uuids, *(one.chunk(len(uuids)) for one in (answer, where, counts)), strict=True)
            answer = torch.cat([self._settled(one, *row, place, share) for one, *row in rows])
        for number, one in enumerate(uuids):
            pairs = [[rows.chunk(len(uuids))[number] for rows in pair] for pair in self.kept]
            self.known[one] = (pairs, self.output.chunk(len(uuids))[number])
        return answer

    def _settled(self, one: Any, answer: Tensor, new: Tensor, counted: Tensor, place: float, share: Any) -> Tensor:
        """What a condition's tokens get: those that are new also what they lacked while they were left out."""
        past = self.past.setdefault(one, [])
        before, since, unseen = answer, torch.full(new.shape, place), torch.ones_like(new)
        for at, _, computed, _, stood in reversed(past):
            found = unseen & computed
            before, since = torch.where(found, stood, before), torch.where(found, at, since)
            unseen = unseen & ~computed
        lacked = torch.zeros_like(answer)
        for at, worth, _, counts, _ in past:
            way = ((at - since) / (place - since)).clamp(0.0, 1.0) if share.repays else torch.zeros(new.shape)
            lacked += counts * way.nan_to_num() * (worth / share.weight if share.repays else 0.0) * (answer - before)
        most = (answer - before).abs() * MOST_REPAID
        stands = torch.where(new, answer, before)
        past.append((place, share.weight, new, counted, stands))
        return torch.where(new, answer + lacked.clamp(-most, most), stands)

    def _on_latent(self, latent: Tensor, marked: Tensor | None) -> Tensor:
        """Where on a latent the tokens lie that are marked."""
        assert marked is not None
        inner = self.model.model.diffusion_model
        side = next(getattr(inner, name) for name in ("patch_size", "patch_spatial", "patch") if hasattr(inner, name))
        columns = -(-latent.shape[-1] // side)
        where = torch.zeros(len(latent), *latent.shape[-2:], dtype=torch.bool)
        for row in range(latent.shape[-2]):
            for column in range(latent.shape[-1]):
                where[:, row, column] = marked[:, row // side * columns + column // side]
        return where.view(len(latent), *[1] * (latent.ndim - 3), *latent.shape[-2:])

    def _override(self, func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        axis = 2 if kwargs.get("skip_reshape") else 1
        of_text = type(self.model.model.diffusion_model).__name__ == "Anima" and self._asked % 2
        self._asked += 1
        if self._refining or of_text:
            return func(q, k, v, *args, **kwargs)
        k, v = self._mixed([k, v], axis)
        return func(q, k, v, *args, **kwargs)

    def _mixed(self, new: list[Tensor], axis: int) -> list[Tensor]:
        number, self._number = self._number, self._number + 1
        if self._fresh is None:
            if number == 0:
                self.kept.clear()
            still = [torch.zeros_like(one.narrow(axis, 0, 1)) for one in new]
            self.kept.append([*(one.clone() for one in new), *still])
            return new
        text = new[0].shape[axis] - self.tokens
        flags = torch.cat((self._fresh.new_ones(self._fresh.shape[0], text), self._fresh), dim=1)
        mixed, drifts = [], []
        for one, old, drift in zip(new, self.kept[number][:2], self.kept[number][2:], strict=True):
            moved, known = self._moved(one, old, drift, axis)
            drifts.append(known)
            mixed.append(torch.where(_along(flags, one, axis), one, moved))
        self.kept[number] = [*mixed, *drifts]
        return mixed

    def _moved(self, new: Tensor, old: Tensor, drift: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """What is kept, moved by the drift that the new tokens show, and that drift."""
        if self._waited is None:
            return old, drift
        text = new.shape[axis] - self.tokens
        image, steps = old.narrow(axis, text, self.tokens), _along(self._waited, old, axis)
        off = (new.narrow(axis, text, self.tokens) - image - drift) * steps
        drift = drift + off.sum(axis, keepdim=True) / steps.square().sum(axis, keepdim=True)
        return torch.cat((old.narrow(axis, 0, text), image + drift), axis), drift

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        inner = self.model.model.diffusion_model
        names = ("final_layer", "final_linear", "proj_out", "last")
        last = next(getattr(inner, name) for name in names if hasattr(inner, name))
        handles = [last.register_forward_hook(self._replace_output)]
        if type(inner).__name__ in FIRST_BLOCK:
            first = inner.get_submodule(FIRST_BLOCK[type(inner).__name__])
            handles.append(first.register_forward_pre_hook(self._end_refining))
        if type(inner).__name__ == "PixArtMS":
            handles += [block.attn.qkv.register_forward_hook(self._replace_pixart) for block in inner.blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _replace_output(self, module: Any, args: Any, output: Tensor) -> Tensor:
        image = output.flatten(1, -2)
        text, image = image[:, : -self.tokens], image[:, -self.tokens :]
        if self._fresh is not None:
            image = torch.where(self._fresh.unsqueeze(-1), image, self.output)
        self.output = image.clone()
        return torch.cat((text, image), dim=1).view(output.shape)

    def _end_refining(self, module: Any, args: Any) -> None:
        self._refining = False

    def _replace_pixart(self, module: Any, args: Any, output: Tensor) -> Tensor:
        q, k, v = output.chunk(3, dim=-1)
        return torch.cat([q, *self._mixed([k, v], 1)], dim=-1)


def _along(rows: Tensor, like: Tensor, axis: int) -> Tensor:
    """A number for each place of each row `[R, L]`, in the shape of keys or values whose tokens lie on an axis."""
    shape = [1] * like.ndim
    shape[0], shape[axis] = rows.shape
    return rows.view(shape)


def _flags(selected: Tensor, tokens: int) -> Tensor:
    flags = torch.zeros(selected.shape[0], tokens, dtype=torch.bool)
    for row, chosen in zip(flags, selected, strict=True):
        row[chosen] = True
    return flags
