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
from .layout import Layout

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
        layout: of the model's tokens.
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
    layout: Layout
    selected: Tensor | None = None
    why_full: str = ""
    record_attention: bool = False
    fits: Callable[[int], str | None] = lambda nbytes: None
    ran: bool = False
    refusal: str | None = None
    waited: Tensor | None = None
    _seen: int = 0
    _in_blocks: bool = False
    _computed: Tensor | None = None
    _waits: Tensor | None = None

    def __post_init__(self) -> None:
        if self.selected is not None:
            self._computed = self.layout.computed(self.selected)
            self._waits = self.layout.waits(self.waited)

    @property
    def computed(self) -> Tensor | None:
        """`[R, K + F]` int64, the selected tokens and those that the model adds; `None` to compute all."""
        return self._computed

    @property
    def sees_attention(self) -> bool:
        """Whether attention has to go through `attention`: not in a full call that nothing is kept of."""
        return self.selected is not None or self.record_attention

    def enter_blocks(self) -> None:
        """What comes from here on are attentions of the blocks; those before refined the text or the image alone."""
        self._in_blocks = True

    @own_code()
    def attention(self, keys: Tensor, values: Tensor, mask: Any = None) -> tuple[Tensor, Tensor, Any]:
        """Keys, values and mask for the next attention of the model, `[R, tokens, ...]` with the text first."""
        assert self.memory is not None
        if not self._in_blocks:
            return keys, values, mask
        number, of_text = divmod(self._seen, self.layout.every)
        self._seen += 1
        if of_text:
            return keys, values, mask
        if self._computed is not None:
            kept = self.memory.attentions[number]
            kept.merge(keys, values, self._computed, self.layout.places, self._waits)
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
        """What the final layer gives in place of `output`, of all tokens or the computed ones; `None` for the same."""
        self.ran = True
        if self.memory is None:
            return None
        here = self.layout.places if self._computed is None else self._computed.shape[1]
        text = output.shape[1] - here if self.layout.in_one else 0
        if self._computed is None:
            # contiguous, since rows of it are written to in place
            self.memory.output = output[:, text:].clone(memory_format=torch.contiguous_format)
            return None
        image = self.memory.update(output[:, text:], self._computed)
        return torch.cat((output[:, :text], image), dim=1) if text else image

    def finish(self, expected: int) -> None:
        """Check that what was recorded of a model that ran is whole; drop the attentions if it is not."""
        if self.memory is None or self.selected is not None or not self.record_attention or self.refusal is not None:
            return
        assert self.memory.output is not None
        found = self.memory.output[0].flatten(0, -2).shape[0]
        if len(self.memory.attentions) != expected:
            self.refusal = f"another node ran {expected - len(self.memory.attentions)} of {expected} attentions"
        elif found != self.layout.places:
            self.refusal = f"the model runs on {found} image tokens where the picture has {self.layout.places}"
        if self.refusal is not None:
            self.memory.attentions.clear()

    def _why_not(self, keys: Tensor, values: Tensor, mask: Any, number: int) -> str | None:
        if keys.shape[1] < self.layout.places:
            return "an attention runs on fewer tokens than the picture has"
        # A mask with a row for each query would have to be cut to the selected ones; no supported model makes one.
        if mask is not None and (mask.shape[-2] != 1 or mask.shape[0] != keys.shape[0]):
            return "the attention mask differs from token to token"
        return self.fits(keys.nbytes + values.nbytes) if number == 0 else None


class _Carried:
    """What blocks are given in a call on selected tokens. All blocks are given the same positions, so one cut does."""

    def __init__(self, call: TransformerCall) -> None:
        self._call = call
        self._table: tuple[Tensor, Tensor] | None = None

    def tokens(self, tokens: Tensor) -> Tensor:
        assert self._call.computed is not None
        return self._call.layout.carried(tokens, self._call.computed)

    def positions(self, table: Tensor) -> Tensor:
        assert self._call.computed is not None
        if self._table is None or self._table[0] is not table:
            self._table = table, self._call.layout.with_text(table, self._call.computed)
        return self._table[1]


def _changed(
    args: tuple[Any, ...], kwargs: dict[str, Any], place: int | str, change: Callable[[Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with one of them changed."""
    if isinstance(place, str):
        return args, {**kwargs, place: change(kwargs[place])}
    return (*args[:place], change(args[place]), *args[place + 1 :]), kwargs


@contextmanager
def attached(family: Family, model: Any, call: TransformerCall) -> Iterator[None]:
    """The hooks of one call on the model's modules, gone afterwards whatever happens."""

    carried = _Carried(call)

    @own_code()
    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call.enter_blocks()
        return None if call.computed is None else _changed(args, kwargs, family.tokens, carried.tokens)

    @own_code()
    def place(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert family.block_positions is not None
        return _changed(args, kwargs, family.block_positions, carried.positions)

    @own_code()
    def positions(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        assert call.computed is not None
        return call.layout.with_text(output, call.computed, axis=2)

    def outputs(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return call.output(output)

    with ExitStack() as stack:
        with own_code():
            if call.sees_attention:
                first = model.get_submodule(family.first_block)
                stack.callback(first.register_forward_pre_hook(enter, with_kwargs=True).remove)
            if call.computed is not None and family.positions is not None:
                stack.callback(model.get_submodule(family.positions).register_forward_hook(positions).remove)
            if call.computed is not None and family.block_positions is not None:
                for block in family.blocks(model):
                    stack.callback(block.register_forward_pre_hook(place, with_kwargs=True).remove)
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


def selected_control(control: dict[str, Any], selected: Tensor) -> dict[str, Any]:
    """A ControlNet's residuals `[R, N, C]`, of the selected tokens (`[R, K]`) only."""

    def chosen(residual: Any) -> Any:
        return None if residual is None else gather_tokens(residual.expand(selected.shape[0], -1, -1), selected)

    return {place: [chosen(one) for one in residuals] for place, residuals in control.items()}
