"""Other packs' patches see the whole token grid, whatever was dropped.

IP-Adapter, regional prompts, HyperTile and ToMe read a picture's layout off the number of tokens. In a layer that runs
on fewer, every section they touch (self-attention, the place after it, cross-attention) is bracketed: the hidden
states are expanded before their first patch and gathered after their last. What a patch does in the middle, folding
tokens, multiplying the batch, replacing the attention, is its own business. Where all of them give back what they were
given, as HyperTile does in layers that it leaves alone, the attention between them runs on the kept tokens only.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...atedm_core.tokens import TokenSubset

Options = dict[str, Any]


class TokenGrid:
    """The tokens of one attention block in one model call: all of them until `subset` is set.

    An object, so that a layer's brackets can be in place before the tokens are chosen in it. Its methods are patches as
    the host calls them.

    Attributes:
        subset: the tokens that are kept, once they are chosen.
        whole: of `attn1` and `attn2`, which ran on all tokens for a patch's sake although some were dropped.
    """

    def __init__(self) -> None:
        self.subset: TokenSubset | None = None
        self.whole: set[str] = set()

    def expand(self, hidden: Tensor, extra_options: Options | None = None) -> Tensor:
        """Kept tokens `[B, K, C]` to the full grid; anything else as it is."""
        subset = self.subset
        return subset.expand(hidden) if subset is not None and hidden.shape[1] == subset.kept else hidden

    def gather(self, hidden: Tensor, extra_options: Options | None = None) -> Tensor:
        """The full grid `[B, N, C]` to the kept tokens; anything else as it is."""
        subset = self.subset
        return subset.gather(hidden) if subset is not None and hidden.shape[1] == subset.total else hidden


class Bracket:
    """One attention (`attn1` or `attn2`) of one layer among foreign patches, of which `before` come before it.

    Its methods are the only patches that the host calls there.
    """

    def __init__(self, grid: TokenGrid, attention: str, before: list[Any], after: list[Any], replaced: bool) -> None:
        self._grid, self._attention, self._replaced = grid, attention, replaced
        self._before, self._after = before, after
        self._runs_on_kept = False

    def ask(
        self, hidden: Tensor, context: Tensor, value: Tensor, extra_options: Options
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the attention gets: in self-attention the host hands over one tensor three times, expanded once."""
        full = self._grid.expand(hidden)
        given = (full, full if context is hidden else context, full if value is hidden else value)
        out = given
        for patch in self._before:
            out = patch(*out, extra_options)
        if full is hidden:
            return out
        if self._replaced or any(one is not other for one, other in zip(out, given, strict=True)):
            self._grid.whole.add(self._attention)
            return out
        self._runs_on_kept = True
        # Gathered again, since a patch may have changed in place what it gave back.
        kept = self._grid.gather(full)
        return kept, kept if context is hidden else context, kept if value is hidden else value

    def answer(self, hidden: Tensor, extra_options: Options) -> Tensor:
        """The attention's output on the kept tokens, as the patches that come after it make it on the full grid."""
        if self._runs_on_kept:
            if not self._after:
                return hidden
            hidden = self._grid.expand(hidden)
        for patch in self._after:
            hidden = patch(hidden, extra_options)
        return self._grid.gather(hidden)


def _is_replaced(options: Options, attention: str, layer: int) -> bool:
    """Whether a foreign function stands in for this layer's self-attention (`attn1`) or cross-attention (`attn2`)."""
    # The host looks a replacement up by (part, number, layer) first, then by (part, number).
    replaced, block = options.get("patches_replace", {}).get(attention, {}), tuple(options.get("block", ()))
    return (*block, layer) in replaced or block in replaced


def on_full_grid(options: Options, layer: int, grid: TokenGrid) -> Options:
    """The options for one layer, with every section that foreign patches touch bracketed.

    Where there is none, the options themselves come back, and nothing costs anything.
    """
    patches: dict[str, list[Any]] = options.get("patches", {})
    added: dict[str, list[Any]] = {}
    for attention in ("attn1", "attn2"):
        names = (f"{attention}_patch", f"{attention}_output_patch")
        before, after = (patches.get(name, []) for name in names)
        replaced = _is_replaced(options, attention, layer)
        if before or after or replaced:
            bracket = Bracket(grid, attention, before, after, replaced)
            added |= {names[0]: [bracket.ask], names[1]: [bracket.answer]}
    if patches.get("middle_patch"):
        added["middle_patch"] = [grid.expand, *patches["middle_patch"], grid.gather]
    return {**options, "patches": {**patches, **added}} if added else options


def append_patch(options: Options, name: str, patch: Any) -> Options:
    """The options with one more patch at the end of the list called `name`."""
    patches: dict[str, list[Any]] = options.get("patches", {})
    return {**options, "patches": {**patches, name: [*patches.get(name, []), patch]}}
