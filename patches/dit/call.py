"""One call of a diffusion transformer: recorded in full, or run on selected tokens only.

Compact execution: the selected tokens are gathered before the first block and carried alone from there on; attention
gives them, and the text, the keys and values of all tokens; the final layer's output takes its places among the outputs
that the other tokens had. The host's own layers do all the work. They are reached by forward hooks that are on for this
one call, and by the host's `optimized_attention_override`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ...atedm_core.tokens import gather_tokens
from .families import Family
from .kv_cache import AttentionMemory, CallMemory, own

_OVERRIDE = "optimized_attention_override"


class TransformerCall:
    """What the hooks of one call share.

    Attributes:
        memory: what is recorded, or used and brought up to date.
        tokens: N, image tokens on the full grid.
        selected: `[R, K]` int64, the image tokens to compute; `None` to compute and record all.
        why_full: why all are computed, in words; empty if they are not.
        refusal: why nothing could be recorded, if so.
    """

    def __init__(
        self,
        memory: CallMemory,
        tokens: int,
        selected: Tensor | None = None,
        *,
        why_full: str = "",
        record_attention: bool = False,
        fits: Callable[[int], str | None] = lambda nbytes: None,
    ) -> None:
        self.memory = memory
        self.tokens = tokens
        self.selected = selected
        self.why_full = why_full
        self.refusal: str | None = None
        self._record = record_attention
        self._fits = fits
        self._seen = 0

    @property
    def sees_attention(self) -> bool:
        """Whether attention has to go through `attention`: not in a full call that nothing is kept of."""
        return self.selected is not None or self._record

    def attention(self, keys: Tensor, values: Tensor, mask: Any = None) -> tuple[Tensor, Tensor, Any]:
        """Keys, values and mask for the next attention of the model, `[R, tokens, ...]` with the text first."""
        number = self._seen
        self._seen += 1
        if self.selected is not None:
            kept = self.memory.attentions[number]
            kept.merge(keys, values, self.selected, self.tokens)
            return kept.keys, kept.values, kept.mask
        if self._record and self.refusal is None:
            self.refusal = self._why_not(keys, values, mask, number)
            if self.refusal is None:
                self.memory.attentions.append(AttentionMemory(own(keys), own(values), mask))
            else:
                self.memory.attentions.clear()
        return keys, values, mask

    def _why_not(self, keys: Tensor, values: Tensor, mask: Any, number: int) -> str | None:
        if keys.shape[1] < self.tokens:
            return "an attention runs on fewer tokens than the picture has"
        # A mask with a row for each query would have to be cut to the selected ones; no supported model makes one.
        if mask is not None and mask.shape[-2] != 1:
            return "the attention mask differs from token to token"
        return self._fits(keys.nbytes + values.nbytes) if number == 0 else None

    def finish(self, expected: int) -> None:
        """Check that a recording is whole; drop the attentions if it is not."""
        if self.selected is not None or not self._record or self.refusal is not None:
            return
        output = self.memory.output
        if output is None or len(self.memory.attentions) != expected:
            self.refusal = "another node answered in the model's place"
        elif output.shape[1] != self.tokens:
            self.refusal = f"the model runs on {output.shape[1]} image tokens where the picture has {self.tokens}"
        if self.refusal is not None:
            self.memory.attentions.clear()


@contextmanager
def attached(family: Family, model: Any, call: TransformerCall) -> Iterator[None]:
    """The hooks of one call on the model's modules, gone afterwards whatever happens."""
    with ExitStack() as stack:

        def gather(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return _with_selected(family, call, args, kwargs)

        def positions(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return selected_positions(output, call)

        def outputs(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if call.selected is None:
                call.memory.output = output.clone()
                return None
            return call.memory.update(output, call.selected)

        if call.selected is not None:
            first = family.module(model, family.first_block)
            stack.callback(first.register_forward_pre_hook(gather, with_kwargs=True).remove)
            if family.positions is not None:
                stack.callback(family.module(model, family.positions).register_forward_hook(positions).remove)
        stack.callback(family.module(model, family.final).register_forward_hook(outputs).remove)
        if family.attend is not None and call.sees_attention:
            stack.enter_context(family.attend(model, call.attention))
        yield


def with_override(transformer_options: dict[str, Any], call: TransformerCall) -> dict[str, Any]:
    """A copy of the options in which every attention goes through `call`; an override that is there stays in use."""
    other = transformer_options.get(_OVERRIDE)

    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Any:
        mask = args[0] if args else kwargs.pop("mask", None)
        heads_first = kwargs.get("skip_reshape", False)
        if heads_first:
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        k, v, mask = call.attention(k, v, mask)
        if heads_first:
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        if other is not None:
            return other(func, q, k, v, heads, mask, *args[1:], **kwargs)
        return func(q, k, v, heads, mask, *args[1:], **kwargs)

    return {**transformer_options, _OVERRIDE: override}


def selected_positions(table: Tensor, call: TransformerCall) -> Tensor:
    """Rotary positions `[B, 1, L + N, ...]` of the text and the selected tokens only: `[R, 1, L + K, ...]`."""
    assert call.selected is not None
    rows, kept = call.selected.shape
    table = table.expand(rows, *table.shape[1:])
    text = table.shape[2] - call.tokens
    image = gather_tokens(table[:, 0, text:].flatten(2), call.selected)
    chosen = image.view(rows, 1, kept, *table.shape[3:])
    return torch.cat((table[:, :, :text], chosen), dim=2)


def selected_control(control: dict[str, Any], call: TransformerCall) -> dict[str, Any]:
    """A ControlNet's residuals `[R, N, C]`, of the selected tokens only."""
    assert call.selected is not None
    selected = call.selected

    def chosen(residual: Any) -> Any:
        if residual is None:
            return None
        return gather_tokens(residual.expand(selected.shape[0], -1, -1), selected)

    return {place: [chosen(one) for one in residuals] for place, residuals in control.items()}


def _with_selected(
    family: Family, call: TransformerCall, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    assert call.selected is not None
    if isinstance(family.tokens, str):
        return args, {**kwargs, family.tokens: gather_tokens(kwargs[family.tokens], call.selected)}
    place = family.tokens
    return (*args[:place], gather_tokens(args[place], call.selected), *args[place + 1 :]), kwargs
