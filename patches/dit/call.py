"""One call of a diffusion transformer: run as it is, recorded in full, or run on selected tokens only.

Compact execution: the selected tokens are gathered before the first block and carried alone from there on; attention
gives them, and the text, the keys and values of all tokens; the final layer's output takes its places among the outputs
that the other tokens had. The host's own layers do all the work. They are reached by forward hooks that are on for this
one call, and by the host's `optimized_attention_override`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...atedm_core.tokens import gather_tokens
from .families import Family
from .kv_cache import AttentionMemory, CallMemory, own

_OVERRIDE = "optimized_attention_override"


class OwnError(Exception):
    """An error of this pack's own code while a model call is under way; its cause says which."""


@contextmanager
def own_code() -> Iterator[None]:
    """Marks what is raised as this pack's own error, apart from interrupts and lack of memory."""
    try:
        yield
    except Exception as error:
        if comfy.model_management.is_oom(error):
            raise
        raise OwnError(f"{type(error).__name__}: {error}") from error


@dataclass
class TransformerCall:
    """What the hooks of one call share.

    Attributes:
        memory: what is recorded, or used and brought up to date; `None` for a call that is left as it is.
        tokens: N, image tokens on the full grid.
        selected: `[R, K]` int64, the image tokens to compute; `None` to compute all.
        waited: `[R, K]` float32, steps since each of them was last computed; `None` if nothing goes by it.
        why_full: why all are computed, in words; empty if they are not.
        record_attention: whether a full call keeps keys and values.
        fits: why so many bytes for an attention cannot be kept, `None` if they can.
        ran: whether the model ran, and no other node answered in its place. With `True` from the start nobody looks,
            and the model's modules are not touched.
        refusal: why nothing could be recorded, if so.
    """

    memory: CallMemory | None
    tokens: int
    selected: Tensor | None = None
    why_full: str = ""
    record_attention: bool = False
    fits: Callable[[int], str | None] = lambda nbytes: None
    ran: bool = False
    refusal: str | None = None
    waited: Tensor | None = None
    _seen: int = 0

    @property
    def sees_attention(self) -> bool:
        """Whether attention has to go through `attention`: not in a full call that nothing is kept of."""
        return self.selected is not None or self.record_attention

    @own_code()
    def attention(self, keys: Tensor, values: Tensor, mask: Any = None) -> tuple[Tensor, Tensor, Any]:
        """Keys, values and mask for the next attention of the model, `[R, tokens, ...]` with the text first."""
        assert self.memory is not None
        number = self._seen
        self._seen += 1
        if self.selected is not None:
            kept = self.memory.attentions[number]
            kept.merge(keys, values, self.selected, self.tokens, self.waited)
            return kept.keys, kept.values, kept.mask
        if self.record_attention and self.refusal is None:
            self.refusal = self._why_not(keys, values, mask, number)
            if self.refusal is None:
                self.memory.attentions.append(AttentionMemory(own(keys), own(values), mask))
            else:
                self.memory.attentions.clear()
        return keys, values, mask

    @own_code()
    def output(self, output: Tensor) -> Tensor | None:
        """What the final layer gives in place of `output` (`[R, N or K, D]`); `None` for the same."""
        self.ran = True
        if self.memory is None:
            return None
        if self.selected is not None:
            return self.memory.update(output, self.selected)
        self.memory.output = output.clone()
        return None

    def finish(self, expected: int) -> None:
        """Check that what was recorded of a model that ran is whole; drop the attentions if it is not."""
        if self.memory is None or self.selected is not None or not self.record_attention or self.refusal is not None:
            return
        assert self.memory.output is not None
        found = self.memory.output.shape[1]
        if len(self.memory.attentions) != expected:
            self.refusal = f"another node ran {expected - len(self.memory.attentions)} of {expected} attentions"
        elif found != self.tokens:
            self.refusal = f"the model runs on {found} image tokens where the picture has {self.tokens}"
        if self.refusal is not None:
            self.memory.attentions.clear()

    def _why_not(self, keys: Tensor, values: Tensor, mask: Any, number: int) -> str | None:
        if keys.shape[1] < self.tokens:
            return "an attention runs on fewer tokens than the picture has"
        # A mask with a row for each query would have to be cut to the selected ones; no supported model makes one.
        if mask is not None and (mask.shape[-2] != 1 or mask.shape[0] != keys.shape[0]):
            return "the attention mask differs from token to token"
        return self.fits(keys.nbytes + values.nbytes) if number == 0 else None


@contextmanager
def attached(family: Family, model: Any, call: TransformerCall) -> Iterator[None]:
    """The hooks of one call on the model's modules, gone afterwards whatever happens."""

    @own_code()
    def gather(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert call.selected is not None
        place = family.tokens
        if isinstance(place, str):
            return args, {**kwargs, place: gather_tokens(kwargs[place], call.selected)}
        return (*args[:place], gather_tokens(args[place], call.selected), *args[place + 1 :]), kwargs

    def positions(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return selected_positions(output, call)

    def outputs(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return call.output(output)

    with ExitStack() as stack:
        with own_code():
            if call.selected is not None:
                first = model.get_submodule(family.first_block)
                stack.callback(first.register_forward_pre_hook(gather, with_kwargs=True).remove)
                if family.positions is not None:
                    stack.callback(model.get_submodule(family.positions).register_forward_hook(positions).remove)
            if not call.ran:
                stack.callback(model.get_submodule(family.final).register_forward_hook(outputs).remove)
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


@own_code()
def selected_positions(table: Tensor, call: TransformerCall) -> Tensor:
    """Rotary positions `[B, 1, L + N, ...]` of the text and the selected tokens only: `[R, 1, L + K, ...]`."""
    assert call.selected is not None
    rows, kept = call.selected.shape
    table = table.expand(rows, *table.shape[1:])
    text = table.shape[2] - call.tokens
    image = gather_tokens(table[:, 0, text:].flatten(2), call.selected)
    return torch.cat((table[:, :, :text], image.view(rows, 1, kept, *table.shape[3:])), dim=2)


def selected_control(control: dict[str, Any], selected: Tensor) -> dict[str, Any]:
    """A ControlNet's residuals `[R, N, C]`, of the selected tokens (`[R, K]`) only."""

    def chosen(residual: Any) -> Any:
        return None if residual is None else gather_tokens(residual.expand(selected.shape[0], -1, -1), selected)

    return {place: [chosen(one) for one in residuals] for place, residuals in control.items()}
