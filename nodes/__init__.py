"""The nodes a user sees. Schema, tooltips and execute; no mathematics here."""

from __future__ import annotations

from comfy_api.latest import io

from .apply import ATEDMApply
from .auto import ATEDMAuto
from .budget import ATEDMBudget
from .cat import CATPruningApply
from .forecast import StepForecastApply
from .report import ATEDMReport
from .schedule import ATEDMSchedule

NODES: list[type[io.ComfyNode]] = [
    ATEDMApply,
    ATEDMSchedule,
    ATEDMBudget,
    ATEDMReport,
    CATPruningApply,
    StepForecastApply,
    ATEDMAuto,
]
