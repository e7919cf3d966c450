"""CAT Pruning Apply: the node between the loader of a diffusion transformer and the sampler."""

from __future__ import annotations

from typing import Any, get_args

from comfy_api.latest import io

from ..atedm_core.dit.schedule import DEFAULT_SCHEDULE, LEAST_FULL_STEPS, CATSchedule
from ..atedm_core.dit.selection import DEFAULT_SELECTION, MAX_CLUSTERS, CATSelection, ChooseBy
from ..patches.dit.apply import apply_cat
from .types import ALIASES, advanced_combo, advanced_count, advanced_share, checked_model, faster_model, share_input

_MOST_STEPS = 1000


class CATPruningApply(io.ComfyNode):
    """MODEL in, a faster MODEL out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CATPruningApply",
            display_name="CAT Pruning Apply",
            category="model/patch/dit",
            description=(
                "Makes diffusion transformers faster without retraining: after a warm-up, each step computes only the "
                "image tokens that changed most or have waited longest, and the others keep what they had. Place it "
                "between the model loader (and LoRAs) and the sampler. The log says after each run what was done."
            ),
            search_aliases=[*ALIASES, "cat", "token pruning", "speed up", "accelerate", "faster sd3", "faster pixart"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A diffusion transformer: SD3, SD3.5, PixArt-alpha, PixArt-Sigma, Flux.1, Flux.2, "
                        "LongCat-Image, Chroma, AuraFlow, Lumina Image 2.0, Z-Image, Anima, Krea 2 or Qwen-Image."
                    ),
                ),
                share_input(
                    "keep_ratio",
                    DEFAULT_SELECTION.keep_ratio,
                    "Share of image tokens that a pruned step computes. Lower is faster and departs further from the "
                    "full model's picture. 0.3 is the paper's; 1 changes nothing at all. AT-EDM says it the other way "
                    "round: prune_ratio is 1 - keep_ratio.",
                    limits=(0.05, 1.0),
                ),
                share_input(
                    "warmup",
                    DEFAULT_SCHEDULE.warmup,
                    "Share of the run's steps, from the first on, that compute all tokens. They decide what is in the "
                    "picture. 0.29 is the paper's 8 of 28 steps.",
                ),
                advanced_count(
                    "least_full_steps",
                    DEFAULT_SCHEDULE.least_full_steps,
                    (LEAST_FULL_STEPS, _MOST_STEPS),
                    "The warm-up has at least this many steps, however short the run is.",
                ),
                advanced_count(
                    "clusters",
                    DEFAULT_SELECTION.clusters,
                    (1, MAX_CLUSTERS),
                    "The picture's tokens are grouped once into this many clusters, and compared by cluster.",
                ),
                advanced_share(
                    "hot_share",
                    DEFAULT_SELECTION.hot_share,
                    "Share of the computed tokens that goes to the clusters that changed most. The rest goes to the "
                    "tokens that have waited longest. With 0 all tokens simply take turns.",
                ),
                advanced_count(
                    "refresh_interval",
                    DEFAULT_SCHEDULE.refresh_interval,
                    (0, _MOST_STEPS),
                    "After the warm-up every n-th step computes all tokens again, counted back from the last one that "
                    "still finds noise. 0 for none, as in the paper.",
                ),
                advanced_count(
                    "last_full_steps",
                    DEFAULT_SCHEDULE.last_full_steps,
                    (0, _MOST_STEPS),
                    "So many steps at the end compute all tokens. 0 for none, as in the paper.",
                ),
                advanced_combo(
                    "choose_by",
                    sorted(get_args(ChooseBy)),
                    DEFAULT_SELECTION.choose_by,
                    "How tokens are chosen. 'expected error': the faster a token changed when it was last computed, "
                    "the sooner its turn comes; clusters and hot_share have no effect. 'published': as in the paper, "
                    "whose keep_ratio is 0.3, warmup 0.29, least_full_steps 4 and refresh_interval 0.",
                ),
            ],
            outputs=[faster_model()],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        keep_ratio: float,
        warmup: float,
        least_full_steps: int = DEFAULT_SCHEDULE.least_full_steps,
        clusters: int = DEFAULT_SELECTION.clusters,
        hot_share: float = DEFAULT_SELECTION.hot_share,
        refresh_interval: int = DEFAULT_SCHEDULE.refresh_interval,
        last_full_steps: int = DEFAULT_SCHEDULE.last_full_steps,
        choose_by: ChooseBy = DEFAULT_SELECTION.choose_by,
    ) -> io.NodeOutput:
        selection = CATSelection(keep_ratio, clusters, hot_share, choose_by=choose_by)
        schedule = CATSchedule(warmup, least_full_steps, refresh_interval, last_full_steps)
        return io.NodeOutput(apply_cat(checked_model(model), selection, schedule))
