"""Other packs' patches see the whole token grid, whatever was dropped.

IP-Adapter, regional prompts, HyperTile and ToMe read a picture's layout off the number of tokens. In a layer that runs
on fewer, every section they touch (self-attention, the place after it, cross-attention) is bracketed: the hidden
states are expanded before their first patch and gathered after their last, with the host's lists in between as they
were. What a patch does in the middle, folding tokens, multiplying the batch, replacing the attention, is its own
business.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...atedm_core.tokens import TokenSubset

Options = dict[str, Any]


class TokenGrid:
    """The tokens of one attention block in one model call: all of them until `subset` is set.

    Kept as one small object, so that a layer's brackets can be in place before the tokens are chosen in it.
    """

    def __init__(self) -> None:
        self.subset: TokenSubset | None = None

    def expand(self, hidden: Tensor) -> Tensor:
        """Kept tokens `[B, K, C]` to the full grid; anything else as it is."""
        subset = self.subset
        return subset.expand(hidden) if subset is not None and hidden.shape[1] == subset.kept else hidden

    def gather(self, hidden: Tensor) -> Tensor:
        """The full grid `[B, N, C]` to the kept tokens; anything else as it is."""
        subset = self.subset
        return subset.gather(hidden) if subset is not None and hidden.shape[1] == subset.total else hidden


def touches_self_attention(options: Options, layer: int) -> bool:
    """Whether a foreign patch acts on this layer's self-attention."""
    return _has(options, "attn1_patch", "attn1_output_patch") or _replaces(options, "attn1", layer)


def touches_cross_attention(options: Options, layer: int) -> bool:
    """Whether a foreign patch acts on this layer's cross-attention."""
    return _has(options, "attn2_patch", "attn2_output_patch") or _replaces(options, "attn2", layer)


def on_full_grid(options: Options, layer: int, grid: TokenGrid) -> Options:
    """The options for one layer, with every section that foreign patches touch bracketed.

    Where there is none, the options themselves come back, and nothing costs anything.
    """
    patches: dict[str, list[Any]] = options.get("patches", {})
    added: dict[str, list[Any]] = {}
    if touches_self_attention(options, layer):
        added["attn1_patch"] = [_expand_self(grid), *patches.get("attn1_patch", [])]
        added["attn1_output_patch"] = [*patches.get("attn1_output_patch", []), _gather(grid)]
    if _has(options, "middle_patch"):
        added["middle_patch"] = [_expand(grid), *patches["middle_patch"], _gather(grid)]
    if touches_cross_attention(options, layer):
        added["attn2_patch"] = [_expand_cross(grid), *patches.get("attn2_patch", [])]
        added["attn2_output_patch"] = [*patches.get("attn2_output_patch", []), _gather(grid)]
    return {**options, "patches": {**patches, **added}} if added else options


def append_patch(options: Options, name: str, patch: Any) -> Options:
    """The options with one more patch at the end of the list called `name`."""
    patches: dict[str, list[Any]] = options.get("patches", {})
    return {**options, "patches": {**patches, name: [*patches.get(name, []), patch]}}


def _has(options: Options, *names: str) -> bool:
    patches = options.get("patches", {})
    return any(patches.get(name) for name in names)


def _replaces(options: Options, attention: str, layer: int) -> bool:
    """The host looks a replacement up by (part, number, layer) first, then by (part, number)."""
    replacements = options.get("patches_replace", {}).get(attention, {})
    block = tuple(options.get("block", ()))
    return (*block, layer) in replacements or block in replacements


def _expand_self(grid: TokenGrid) -> Any:
    def patch(hidden: Tensor, context: Tensor, value: Tensor, extra_options: Options) -> tuple[Tensor, Tensor, Tensor]:
        full = grid.expand(hidden)
        # First in the list, so the host still hands over one tensor three times: expand it once.
        return full, full if context is hidden else context, full if value is hidden else value

    return patch


def _expand_cross(grid: TokenGrid) -> Any:
    def patch(hidden: Tensor, context: Tensor, value: Tensor, extra_options: Options) -> tuple[Tensor, Tensor, Tensor]:
        return grid.expand(hidden), context, value

    return patch


def _expand(grid: TokenGrid) -> Any:
    def patch(hidden: Tensor, extra_options: Options) -> Tensor:
        return grid.expand(hidden)

    return patch


def _gather(grid: TokenGrid) -> Any:
    def patch(hidden: Tensor, extra_options: Options) -> Tensor:
        return grid.gather(hidden)

    return patch
