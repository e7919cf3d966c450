"""A pack for tests only: a loader node that returns tiny models with random weights."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
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


def weighed(value: object) -> tuple[int, int]:
    """Bytes of plain data and of everything in it, and how many of its objects Python's garbage collector knows."""
    waiting, seen, weight, tracked = [value], set[int](), 0, 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        weight, tracked = weight + sys.getsizeof(one), tracked + gc.is_tracked(one)
        if isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one
    return weight, tracked


def held_by_tensors(objects: list[object]) -> int:
    """Bytes of all tensors in memory, views of one storage counted once."""
    tensors = [one for one in objects if type(one) in (torch.Tensor, torch.nn.Parameter)]
    storages = [one.untyped_storage() for one in tensors if one.device.type == "cpu"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def give_back_what_is_free() -> None:
    """Have glibc return to the system what it keeps for later: tens of MiB, more or less by what was freed last."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


class TinyKept(io.ComfyNode):
    """What is still there of prompts that have ended: of the pack's, of the host's history, and of anything at all."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TinyKept", category="test", inputs=[io.Int.Input("number", max=2**63)], is_output_node=True
        )

    @classmethod
    def execute(cls, number: int) -> io.NodeOutput:
        from server import PromptServer

        (records,) = [one for name, one in sys.modules.items() if name.endswith("patches.host.finished_runs")]
        gc.collect()
        give_back_what_is_free()
        resident = psutil.Process().memory_info().rss
        objects = gc.get_objects()
        history, in_history = weighed(PromptServer.instance.prompt_queue.history)
        found = {
            "records": len(records._finished),
            "runs": sum(type(one).__name__ in RUNS for one in objects),
            "history": history,
            "objects": len(objects) - in_history,
            "tensors": held_by_tensors(objects),
            "resident": resident,
        }
        return io.NodeOutput(ui={"text": (" ".join(f"{name}={number}" for name, number in found.items()),)})


class TinyPack(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TinyCheckpoint, TinyControlNet, TinyKept]


async def comfy_entrypoint() -> TinyPack:
    return TinyPack()
