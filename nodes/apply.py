"""AT-EDM Apply: the node between the model loader and the sampler."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..atedm_core.unet import settings as choices
from ..atedm_core.unet.schedule import DEFAULT_RATIO, DEFAULT_SCHEDULE, MAX_RATIO
from ..atedm_core.unet.settings import DEFAULT_SETTINGS, PruneSettings
from ..patches.unet.apply import apply_atedm
from .types import (
    ALIASES,
    advanced_combo,
    advanced_count,
    checked_model,
    checked_schedule,
    faster_model,
    schedule_input,
    share_input,
)

logger = logging.getLogger(__name__)

RETIRED_RECOVERIES: Mapping[str, choices.Recovery] = {"temporal": "update"}
"""Choices that a shared workflow may still name, and what takes their place.

`temporal` remembered each token's own last change; it was 11 dB further from the full model's picture than `update`.
"""


class ATEDMApply(io.ComfyNode):
    """MODEL in, a faster MODEL out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMApply",
            display_name="AT-EDM Apply",
            category="model/patch/unet",
            description=(
                "Makes SDXL, SD 1.x and SD 2.x models faster without retraining: attention blocks run only on the "
                "tokens that matter, and the others are filled in again. Place it between the model loader (and LoRAs) "
                "and the sampler. The log says after each run what was saved."
            ),
            search_aliases=[*ALIASES, "token pruning", "speed up", "accelerate", "faster sdxl", "tome"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="A U-Net model: SDXL and its refiner, SSD-1B, Segmind Vega, SD 2.x or SD 1.x."
                ),
                share_input(
                    "prune_ratio",
                    DEFAULT_RATIO,
                    "Share of tokens that attention blocks drop. Higher is faster and departs further from the full "
                    "model's picture. 0.63 is the paper's; 0 changes nothing at all. CAT Pruning says it the other way "
                    "round: keep_ratio is 1 - prune_ratio.",
                    limits=(0.0, MAX_RATIO),
                ),
                schedule_input("From AT-EDM DSAP Schedule. Left open, all steps are pruned alike."),
                advanced_combo(
                    "selection",
                    choices.SELECTIONS,
                    DEFAULT_SETTINGS.selection,
                    "For a ranking by attention. 'stratified' keeps the best token of every 2 x 2 cell first, so that "
                    "every part of the picture stays covered. 'top-k' keeps the best overall, as in the paper. The "
                    "other rankings cover every part by themselves, so there it changes nothing.",
                ),
                advanced_combo(
                    "recovery",
                    choices.RECOVERIES,
                    DEFAULT_SETTINGS.recovery,
                    "What a dropped token gets back. 'regression': its own state, its stand-in's change, and what the "
                    "kept tokens show that its own state changes. 'update': without the last. 'copy': its stand-in's "
                    "state, as in the paper. 'interpolate': a blend of the nearest kept tokens. 'zero': nothing.",
                ),
                advanced_combo(
                    "stand_in",
                    choices.STAND_INS,
                    DEFAULT_SETTINGS.stand_in,
                    "Which kept token stands for a dropped one. 'cosine': the most alike. 'attention': the one it "
                    "attends to most, as in the paper. 'grid': the nearest in the picture.",
                ),
                advanced_combo(
                    "ranking",
                    choices.RANKINGS,
                    DEFAULT_SETTINGS.ranking,
                    "What decides which tokens stay. 'redundancy': those that nothing near them resembles, the nearest "
                    "to the full model's picture. 'self-attention': those that receive the most attention, as in the "
                    "paper. 'cross-attention': the same by the prompt, which empties backgrounds. 'none': tokens in an "
                    "even order, which costs nothing.",
                ),
                advanced_count(
                    "iterations",
                    DEFAULT_SETTINGS.iterations,
                    (1, choices.MAX_ITERATIONS),
                    "Rounds of page rank, for a ranking by attention. Each costs at most one attention call a block.",
                ),
                advanced_combo(
                    "prune_from",
                    choices.PRUNE_POINTS,
                    DEFAULT_SETTINGS.prune_from,
                    "Where in each attention block tokens are dropped. 'after first layer' is the paper's. 'inside "
                    "first layer' is faster, 'block start' the fastest, and each is further from the full model's "
                    "picture. For a ranking by attention 'block start' uses an earlier step's ranking, and needs "
                    "rank_interval above 1.",
                ),
                advanced_count(
                    "rank_interval",
                    DEFAULT_SETTINGS.rank_interval,
                    (1, choices.MAX_RANK_INTERVAL),
                    "For a ranking by attention: rank the tokens at every n-th step, and use the last ranking in "
                    "between. 1 ranks at every step. Higher is faster and follows the picture less closely.",
                ),
                advanced_combo(
                    "voters",
                    choices.VOTERS,
                    DEFAULT_SETTINGS.voters,
                    "Whose attention counts in a ranking by self-attention. 'lattice': about 256 tokens, evenly "
                    "spread. 'all': every token, as in the paper, which costs more.",
                ),
                advanced_combo(
                    "merge",
                    choices.MERGES,
                    DEFAULT_SETTINGS.merge,
                    "What a kept token is to the dropped ones that it stands for. 'mean': their mean goes through the "
                    "layers, and counts in attention for all of them. 'weight': it goes as it is, and counts for all "
                    "of them. 'none': it counts as one, as in the paper.",
                ),
            ],
            outputs=[faster_model()],
        )

    @classmethod
    def validate_inputs(cls, recovery: Any = None) -> bool | str:
        """In place of the host's own check of `recovery`, which would refuse a workflow that names a retired choice."""
        if recovery is None or recovery in (*choices.RECOVERIES, *RETIRED_RECOVERIES):
            return True
        return f"recovery is {recovery!r}: choose one of {', '.join(choices.RECOVERIES)}"

    @classmethod
    def execute(cls, model: Any, prune_ratio: float, schedule: Any = None, **advanced: Any) -> io.NodeOutput:
        retired = advanced.get("recovery")
        if (instead := RETIRED_RECOVERIES.get(str(retired))) is not None:
            logger.info("AT-EDM: recovery %r is gone; %r, which is nearer, takes its place.", retired, instead)
            advanced["recovery"] = instead
        wanted = replace(checked_schedule(schedule) or DEFAULT_SCHEDULE, prune_ratio=prune_ratio)
        return io.NodeOutput(apply_atedm(checked_model(model), wanted, PruneSettings(**advanced)))
