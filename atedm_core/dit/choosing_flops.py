"""What it costs to choose tokens in a diffusion transformer, and to move what is kept of the others, in closed form.

Two operations per multiply-add, one sample, as in `flops`. Counted are matrix products and what is summed over all
channels; sorting, gathering and copying move memory instead, and are measured.
"""

from __future__ import annotations

from .clusters import LLOYD_ITERATIONS
from .flops import TransformerStructure, transformer_flops
from .schedule import CATSchedule
from .selection import CATSelection


def choosing_flops(
    selection: CATSelection, structure: TransformerStructure, tokens: int, *, after_full: bool = False
) -> int:
    """Of one pruned pass; 0 where no token is left out.

    Args:
        selection: how tokens are chosen.
        structure: of the model.
        tokens: image tokens.
        after_full: whether the pass before was full, after which the published choice groups tokens anew.
    """
    kept = selection.kept(tokens)
    if kept >= tokens:
        return 0
    channels = structure.output_macs // structure.width
    change = tokens * channels
    if selection.choose_by == "expected error":
        # of keys and of values: how far the computed ones are off, the slope, and the others moved along it
        attentions = structure.joint_attentions + structure.image_attentions
        return 2 * (change + 2 * attentions * structure.width * (2 * kept + tokens))
    if selection.hot_share == 0:
        return 0
    return 2 * (change + (_clustering(selection, tokens, channels) if after_full else 0))


def _clustering(selection: CATSelection, tokens: int, channels: int) -> int:
    """Distances, means, and which clusters touch."""
    features = channels + (2 if selection.position == "concatenated" else 0)
    clusters = min(selection.clusters, tokens)
    return tokens * clusters * ((2 * LLOYD_ITERATIONS + 1) * features + 2 * clusters)


def run_flops(
    structure: TransformerStructure,
    tokens: int,
    text_tokens: int,
    steps: int,
    selection: CATSelection | None = None,
    schedule: CATSchedule | None = None,
) -> int:
    """A run of `steps` for one sample and one condition, one pass a step; without a selection unpruned."""
    full = transformer_flops(structure, tokens, text_tokens)
    if selection is None:
        return steps * full
    schedule = schedule or CATSchedule()
    pruned = schedule.pruned_steps(steps)
    anew = sum(schedule.full_before_pruned(step, steps) for step in range(steps))
    spent = (steps - pruned) * full + pruned * transformer_flops(structure, tokens, text_tokens, selection.kept(tokens))
    spent += anew * choosing_flops(selection, structure, tokens, after_full=True)
    return spent + (pruned - anew) * choosing_flops(selection, structure, tokens)
