"""AT-EDM DSAP Schedule: how much to prune while the layout of the picture is still forming."""

from __future__ import annotations

from comfy_api.latest import io

from ..atedm_core.unet import schedule as dsap
from ..atedm_core.unet.structure import LEVEL_NAMES
from .types import ALIASES, Schedule, advanced_combo, advanced_share, named_output, share_input

_LEVEL_HINTS = {
    "full": "SD 1.x and 2.x have attention there, SDXL has none.",
    "half": "SDXL's 64 x 64 tokens at 1024 px; 0 is the paper's dagger variant.",
    "quarter": "SDXL's 32 x 32 tokens at 1024 px, where most can be saved.",
    "eighth": "Only the middle of SD 1.x and 2.x.",
}


def _level_input(name: str) -> io.Float.Input:
    return advanced_share(
        f"{name}_level",
        1.0,
        f"Multiplies prune_ratio in attention blocks at {name} latent resolution; 0 leaves them whole. "
        f"{_LEVEL_HINTS[name]}",
        limits=(0.0, dsap.MAX_LEVEL_SCALE),
    )


class ATEDMSchedule(io.ComfyNode):
    """Numbers in, a `DSAPSchedule` out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMSchedule",
            display_name="AT-EDM DSAP Schedule",
            category="model/patch/unet",
            description=(
                "Denoising-Steps-Aware Pruning for AT-EDM Apply: prune less while the first steps lay out the picture. "
                "Its defaults are the paper's. Without this node AT-EDM Apply prunes all steps alike."
            ),
            search_aliases=[*ALIASES, "dsap", "pruning schedule", "token pruning", "speed"],
            inputs=[
                share_input(
                    "early_percent",
                    dsap.PAPER_EARLY_PERCENT,  # who adds this node wants an early phase: the paper's
                    "How long the early phase lasts, as a share of the noise range: 0.3 is the noisiest 30 %, whatever "
                    "the sampler, scheduler or denoise. 0 prunes fully from the start.",
                ),
                share_input(
                    "early_ratio",
                    0.0,
                    "Share of tokens that the spared blocks drop in the early phase, at most prune_ratio. 0 leaves "
                    "them whole.",
                    limits=(0.0, dsap.MAX_RATIO),
                ),
                io.Combo.Input(
                    "early_blocks",
                    options=list(dsap.EARLY_BLOCKS),
                    default="stage ends",
                    tooltip=(
                        "Which attention blocks are spared early. 'stage ends': the first of each down stage and the "
                        "last of each up stage, as in the paper. 'all': every block. 'none': no schedule."
                    ),
                ),
                advanced_combo(
                    "ramp",
                    dsap.RAMPS,
                    "step",
                    "How spared blocks come to the full ratio: in one 'step' when the early phase ends, as in the "
                    "paper, or 'linear' or 'cosine' over the early phase.",
                ),
                *(_level_input(name) for name in LEVEL_NAMES),
            ],
            outputs=[named_output(Schedule, "schedule", "Connect to the schedule input of AT-EDM Apply.")],
        )

    @classmethod
    def execute(
        cls,
        early_percent: float,
        early_ratio: float,
        early_blocks: dsap.EarlyBlocks,
        ramp: dsap.Ramp = "step",
        full_level: float = 1.0,
        half_level: float = 1.0,
        quarter_level: float = 1.0,
        eighth_level: float = 1.0,
    ) -> io.NodeOutput:
        levels = (full_level, half_level, quarter_level, eighth_level)
        return io.NodeOutput(
            dsap.DSAPSchedule(dsap.DEFAULT_RATIO, early_percent, early_ratio, early_blocks, ramp, levels)
        )
