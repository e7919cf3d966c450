"""The mathematics of AT-EDM, CAT Pruning and forecasts in pure torch. Usable without ComfyUI."""

from .dit.drift import drift_per_step
from .dit.expected_error import ExpectedErrorSelector
from .dit.flops import TransformerStructure, transformer_flops
from .dit.schedule import CATSchedule
from .dit.selection import CATSelection, TokenSelector
from .forecast import PredictionHistory, half_log_snr
from .forecast_plan import BudgetController, ForecastSettings
from .forecast_schedule import EvaluationSchedule
from .log_sum_exp import log_sum_exp
from .tokens import TokenSubset, kept_tokens
from .unet.budget import Budget, budget_of, solve_budget
from .unet.flops import block_flops, unet_flops
from .unet.gwpr import combine_heads, cross_gwpr, gwpr
from .unet.ranking import LayerAttention, choose_stand_ins, rank_states, rank_tokens, select_tokens
from .unet.recovery import recover, stand_in_by_attention, stand_in_by_cosine, stand_in_by_grid
from .unet.redundancy import redundancy_scores
from .unet.schedule import DSAPSchedule
from .unet.settings import DEFAULT_SETTINGS, PAPER_SETTINGS, PruneSettings, prune_point
from .unet.structure import AttentionBlock, UNetStructure, stage_ends

__all__ = [
    "DEFAULT_SETTINGS",
    "PAPER_SETTINGS",
    "AttentionBlock",
    "Budget",
    "BudgetController",
    "CATSchedule",
    "CATSelection",
    "DSAPSchedule",
    "EvaluationSchedule",
    "ExpectedErrorSelector",
    "ForecastSettings",
    "LayerAttention",
    "PredictionHistory",
    "PruneSettings",
    "TokenSelector",
    "TokenSubset",
    "TransformerStructure",
    "UNetStructure",
    "block_flops",
    "budget_of",
    "choose_stand_ins",
    "combine_heads",
    "cross_gwpr",
    "drift_per_step",
    "gwpr",
    "half_log_snr",
    "kept_tokens",
    "log_sum_exp",
    "prune_point",
    "rank_states",
    "rank_tokens",
    "recover",
    "redundancy_scores",
    "select_tokens",
    "solve_budget",
    "stage_ends",
    "stand_in_by_attention",
    "stand_in_by_cosine",
    "stand_in_by_grid",
    "transformer_flops",
    "unet_flops",
]
