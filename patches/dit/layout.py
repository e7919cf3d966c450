"""How the tokens of one model lie beside each other: text, image, and what the model adds to fill up.

R rows of a batch, L text tokens, N image tokens, F added ones, K selected image tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...atedm_core.tokens import gather_tokens


@dataclass(frozen=True)
class Layout:
    """Of the tokens in a model's blocks. What is added after the image is as new in every step as the text.

    Attributes:
        tokens: N.
        filling: F.
        in_one: whether the blocks and the final layer run on text and image in one, the text first.
        every: of so many attentions in a row the first one has image tokens as keys, and the others only text.
    """

    tokens: int
    filling: int = 0
    in_one: bool = False
    every: int = 1

    @property
    def places(self) -> int:
        """N + F."""
        return self.tokens + self.filling

    def computed(self, selected: Tensor) -> Tensor:
        """The selected tokens (`[R, K]`) and what is added: `[R, K + F]`, ascending."""
        if self.filling == 0:
            return selected
        added = torch.arange(self.tokens, self.places, device=selected.device)
        return torch.cat((selected, added.expand(selected.shape[0], -1)), dim=1)

    def waits(self, waited: Tensor | None) -> Tensor | None:
        """Steps since each of `computed` was last computed, from those of the selected tokens."""
        if waited is None or self.filling == 0:
            return waited
        return torch.nn.functional.pad(waited, (0, self.filling), value=1.0)

    def carried(self, tokens: Tensor, computed: Tensor) -> Tensor:
        """What the blocks run on in place of all tokens, `[R, ..., C]`: rows and columns become one column."""
        if self.in_one:
            return self.with_text(tokens, computed)
        flat = gather_tokens(tokens.flatten(1, -2), computed)
        return flat.view(flat.shape[0], *[1] * (tokens.ndim - 3), *flat.shape[1:])

    def with_text(self, rows: Tensor, computed: Tensor, axis: int = 1) -> Tensor:
        """A table of all text and some image tokens: `[R or 1, L + N + F, ...]` -> `[R, L + K + F, ...]`.

        Args:
            rows: a row for each token, along `axis`; all axes between the first and that one have one place.
            computed: `[R, K + F]`.
            axis: 1 or more.
        """
        table = rows.flatten(1, axis).expand(computed.shape[0], *rows.shape[axis:])
        text = table.shape[1] - self.places
        image = gather_tokens(table[:, text:].flatten(2), computed).view(*computed.shape, *table.shape[2:])
        chosen = torch.cat((table[:, :text], image), dim=1)
        return chosen.view(chosen.shape[0], *rows.shape[1:axis], *chosen.shape[1:])
