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

    An object, so that a layer's brackets can be in place before the tokens are chosen in it. Its methods are patches as
    the host calls them.
    """

    def __init__(self) -> None:
        self.subset: TokenSubset | None = None

    def expand(self, hidden: Tensor, extra_options: Options | None = None) -> Tensor:
        """Kept tokens `[B, K, C]` to the full grid; anything else as it is."""
        subset = self.subset
        return subset.expand(hidden) if subset is not None and hidden.shape[1] == subset.kept else hidden

    def gather(self, hidden: Tensor, extra_options: Options | None = None) -> Tensor:
        """The full grid `[B, N, C]` to the kept tokens; anything else as it is."""
        subset = self.subset
        return subset.gather(hidden) if subset is not None and hidden.shape[1] == subset.total else hidden

    def expand_inputs(
        self, hidden: Tensor, context: Tensor, value: Tensor, extra_options: Options
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What an attention gets: in self-attention the host hands over one tensor three times, expanded once."""
        full = self.expand(hidden)
        return full, full if context is hidden else context, full if value is hidden else value


def touches(options: Options, attention: str, layer: int) -> bool:
    """Whether a foreign patch acts on this layer's self-attention (`attn1`) or cross-attention (`attn2`)."""
    patches = options.get("patches", {})
    # The host looks a replacement up by (part, number, layer) first, then by (part, number).
    replaced, block = options.get("patches_replace", {}).get(attention, {}), tuple(options.get("block", ()))
    patched = patches.get(f"{attention}_patch") or patches.get(f"{attention}_output_patch")
    return bool(patched) or (*block, layer) in replaced or block in replaced


def on_full_grid(options: Options, layer: int, grid: TokenGrid) -> Options:
    """The options for one layer, with every section that foreign patches touch bracketed.

    Where there is none, the options themselves come back, and nothing costs anything.
    """
    patches: dict[str, list[Any]] = options.get("patches", {})
    added: dict[str, list[Any]] = {}
    for attention in ("attn1", "attn2"):
        if touches(options, attention, layer):
            before, after = f"{attention}_patch", f"{attention}_output_patch"
            # First in its list, so that it sees what the host hands over; the other one last.
            added[before] = [grid.expand_inputs, *patches.get(before, [])]
            added[after] = [*patches.get(after, []), grid.gather]
    if patches.get("middle_patch"):
        added["middle_patch"] = [grid.expand, *patches["middle_patch"], grid.gather]
    return {**options, "patches": {**patches, **added}} if added else options


def append_patch(options: Options, name: str, patch: Any) -> Options:
    """The options with one more patch at the end of the list called `name`."""
    patches: dict[str, list[Any]] = options.get("patches", {})
    return {**options, "patches": {**patches, name: [*patches.get(name, []), patch]}}
