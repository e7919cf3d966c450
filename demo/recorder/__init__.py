"""Two nodes for the demo alone: one writes down which tokens a run kept, one ends workflows that measure time."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io

OBSERVERS_KEY = "atedm_observers"  # where AT-EDM looks for those who want to know
FOLDER = "recorded"


class Recorder:
    """Counts for every block how often each token was kept, and writes it all down when the run ends."""

    def __init__(self, name: str, latent: tuple[int, int]) -> None:
        self.name = name
        self.latent = latent
        self._counts: dict[str, torch.Tensor] = {}
        self._rows: dict[str, int] = {}
        self._grids: dict[str, tuple[int, int]] = {}

    def pruned(self, event: Any) -> None:
        """One block of one model call; stays on the device."""
        block, keep, source = event.block.name, event.subset.keep_index, event.subset.source_index
        kept = torch.zeros(source.shape, device=keep.device).scatter_(1, keep, 1.0).sum(0)
        self._counts[block] = self._counts.get(block, 0.0) + kept
        self._rows[block] = self._rows.get(block, 0) + keep.shape[0]
        self._grids[block] = event.grid

    def finished(self, run: Any, steps: int) -> None:
        """Write the record beside the pictures."""
        target = Path(folder_paths.get_output_directory()) / FOLDER / f"{self.name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            json.dumps({"steps": steps, **self._flops(run), "blocks": self._blocks(run)}), encoding="utf-8"
        )

    def _flops(self, run: Any) -> dict[str, Any]:
        """Tokens and FLOPs of the run: attention blocks as they were counted, the whole U-Net by its structure."""
        # the pack has a name of ComfyUI's making, so its cost module is found beside the run's own
        pack = type(run).__module__.removesuffix("patches.unet.run")
        cost = importlib.import_module(f"{pack}atedm_core.unet.flops")
        total = run.total()
        first = next(iter(run.method.structure.blocks)).name
        forwards = sum(spent.calls for (_, block), spent in run.tallies.items() if block == first)
        whole = forwards * cost.unet_flops(run.method.structure, self.latent)
        return {
            "forward_passes": forwards,
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
                share = self._counts[block.name] / self._rows[block.name]
                entry["grid"] = self._grids[block.name]
                entry["kept_share"] = [round(value, 4) for value in share.tolist()]
            blocks.append(entry)
        return blocks


class ATEDMDemoRecord(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMDemoRecord",
            display_name="AT-EDM Demo Record",
            category="testing",
            description="Writes down which tokens a run keeps. For the demo; it makes runs slower.",
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
        options[OBSERVERS_KEY] = [*options.get(OBSERVERS_KEY, ()), Recorder(name, (height // 8, width // 8))]
        return io.NodeOutput(recorded)


class ATEDMDemoSink(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMDemoSink",
            display_name="AT-EDM Demo Sink",
            category="testing",
            description="Ends a workflow after sampling, so that sampling alone is timed.",
            inputs=[io.Latent.Input("samples")],
            outputs=[],
            is_output_node=True,
            is_dev_only=True,
        )

    @classmethod
    def execute(cls, samples: dict[str, Any]) -> io.NodeOutput:
        if not torch.isfinite(samples["samples"]).all():  # reading it back also waits for the device
            raise ValueError("The sampler returned numbers that are not finite.")
        return io.NodeOutput()


class RecorderPack(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [ATEDMDemoRecord, ATEDMDemoSink]


async def comfy_entrypoint() -> RecorderPack:
    return RecorderPack()
