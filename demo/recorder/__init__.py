"""A node for the demo alone: it writes down what a run took, how often the model was asked and which tokens it kept."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import ComfyExtension, io

OBSERVERS_KEY = "atedm_observers"  # where AT-EDM looks for those who want to know
KEY = "atedm_demo_record"
FOLDER = "recorded"


class Recorder:
    """Watches one run, and writes it all down when it ends: whoever ends last writes the whole record."""

    def __init__(self, name: str, latent: tuple[int, int]) -> None:
        self.name = name
        self.latent = latent
        self._record: dict[str, Any] = {}
        self._evaluations = 0
        self._counts: dict[str, torch.Tensor] = {}
        self._calls: dict[str, int] = {}
        self._grids: dict[str, tuple[int, int]] = {}

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Around the whole run, so that all that methods do before and after it is in the seconds."""
        self._evaluations = 0
        clock = time.thread_time if self._on_cpu() else time.perf_counter
        began = clock()
        result = executor(*args, **kwargs)
        if not torch.isfinite(result).all():  # reading it back also waits for the device
            raise ValueError("The sampler returned numbers that are not finite.")
        self._write({"seconds": clock() - began, "evaluations": self._evaluations})
        return result

    @staticmethod
    def _on_cpu() -> bool:
        """There this thread's processor time counts, without whatever else the machine or the server does meanwhile."""
        return comfy.model_management.get_torch_device().type == "cpu"

    def diffusion_model(self, executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around every real evaluation; each sample of each condition counts."""
        self._evaluations += len(x)
        return executor(x, *args, **kwargs)

    def pruned(self, event: Any) -> None:
        """One block of one model call; stays on the device."""
        block, keep, source = event.block.name, event.subset.keep_index, event.subset.source_index
        kept = torch.zeros(source.shape, device=keep.device).scatter_(1, keep, 1.0)
        conditions = len(event.uuids)
        kept = kept.unflatten(0, (conditions, -1)).sum(0)  # [samples, tokens]
        self._counts[block] = self._counts.get(block, 0.0) + kept
        self._calls[block] = self._calls.get(block, 0) + conditions
        self._grids[block] = event.grid

    def finished(self, run: Any, steps: int) -> None:
        """A run with token pruning has ended."""
        self._write({"steps": steps, **self._flops(run), "blocks": self._blocks(run)})

    def _write(self, found: dict[str, Any]) -> None:
        """Beside the pictures."""
        self._record |= found
        target = Path(folder_paths.get_output_directory()) / FOLDER / f"{self.name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(self._record), encoding="utf-8")

    def _flops(self, run: Any) -> dict[str, Any]:
        """Tokens and FLOPs of the run: attention blocks as they were counted, the whole U-Net by its structure."""
        # the pack has a name of ComfyUI's making, so its cost module is found beside the run's own
        pack = type(run).__module__.removesuffix("patches.unet.run")
        cost = importlib.import_module(f"{pack}atedm_core.unet.flops")
        total = run.total()
        whole = self._evaluations * cost.unet_flops(run.method.structure, self.latent)
        return {
            "tokens": total.tokens,
            "tokens_kept": total.kept,
            "attention_flops_full": total.flops_full,
            "attention_flops": total.flops,
            "unet_flops_full": whole,
            "unet_flops": whole - total.flops_full + total.flops,
        }

    def _blocks(self, run: Any) -> list[dict[str, Any]]:
        blocks = []
        for block in run.method.structure.blocks:
            spent = [tally for (_, name), tally in run.tallies.items() if name == block.name]
            entry = {
                "name": block.name,
                "calls": sum(tally.calls for tally in spent),
                "pruned_calls": sum(tally.pruned_calls for tally in spent),
                "tokens": sum(tally.tokens for tally in spent),
                "tokens_kept": sum(tally.kept for tally in spent),
            }
            if block.name in self._counts:
                share = self._counts[block.name] / self._calls[block.name]
                entry["grid"] = self._grids[block.name]
                entry["kept_share"] = [round(value, 4) for value in share.mean(0).tolist()]
                entry["kept_share_of"] = [[round(value, 4) for value in one] for one in share.tolist()]
            blocks.append(entry)
        return blocks


class ATEDMDemoRecord(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMDemoRecord",
            display_name="AT-EDM Demo Record",
            category="testing",
            description="Writes down what a run takes and which tokens it keeps. For the demo.",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("name"),
                io.Int.Input("width", default=256, min=8, max=16384),
                io.Int.Input("height", default=256, min=8, max=16384),
            ],
            outputs=[io.Model.Output()],
            is_dev_only=True,
        )

    @classmethod
    def execute(cls, model: Any, name: str, width: int, height: int) -> io.NodeOutput:
        recorded = model.clone()
        options = recorded.model_options["transformer_options"]
        recorder = Recorder(name, (height // 8, width // 8))
        options[OBSERVERS_KEY] = [*options.get(OBSERVERS_KEY, ()), recorder]
        recorded.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, recorder.outer_sample)
        recorded.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, recorder.diffusion_model)
        return io.NodeOutput(recorded)


class RecorderPack(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [ATEDMDemoRecord]


async def comfy_entrypoint() -> RecorderPack:
    return RecorderPack()
