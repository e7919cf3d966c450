"""A pack for tests only: a loader node that returns tiny models with random weights."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

from comfy_api.latest import ComfyExtension, io

sys.path.append(str(Path(__file__).resolve().parents[3]))
from benchmarks import random_models, random_transformers

RUNS = ("PruneRun", "CATRun", "ForecastRun", "AutoRun")
CHECKPOINTS = {**random_models.CHECKPOINTS, **random_transformers.CHECKPOINTS}


class TinyCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TinyCheckpoint",
            category="test",
            inputs=[
                io.Combo.Input("kind", options=sorted(CHECKPOINTS)),
                io.Int.Input("seed", default=0, min=0, max=2**31),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, kind: str, seed: int) -> io.NodeOutput:
        return io.NodeOutput(*CHECKPOINTS[kind](seed))


class TinyControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TinyControlNet",
            category="test",
            inputs=[io.Model.Input("model")],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        return io.NodeOutput(random_models.controlnet(model))


class TinyKept(io.ComfyNode):
    """What the pack holds of runs that have ended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TinyKept", category="test", inputs=[io.Int.Input("number", max=2**63)], is_output_node=True
        )

    @classmethod
    def execute(cls, number: int) -> io.NodeOutput:
        (records,) = [one for name, one in sys.modules.items() if name.endswith("patches.host.finished_runs")]
        gc.collect()
        runs = [one for one in gc.get_objects() if type(one).__name__ in RUNS]
        return io.NodeOutput(ui={"text": (f"records={len(records._finished)} runs={len(runs)}",)})


class TinyPack(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TinyCheckpoint, TinyControlNet, TinyKept]


async def comfy_entrypoint() -> TinyPack:
    return TinyPack()
