"""The nodes a user sees. Schema, tooltips and execute; no mathematics here."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

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


class ATEDMExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return NODES
