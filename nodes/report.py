"""AT-EDM Report: what the run that made a result did, by either method, as pictures and text."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..patches.dit.apply import applied_cat
from ..patches.host.finished_runs import find_baseline, find_record
from ..patches.host.preview import latent_preview
from ..patches.steps.apply import applied_forecast
from ..patches.steps.auto import applied_auto
from ..patches.unet.apply import applied_method
from ..report.record import RunRecord
from ..report.text import describe_run, headline
from .types import checked_model, named_output

_NOTHING_APPLIED = (
    "This model is not pruned. Connect the model that comes out of AT-EDM Apply or CAT Pruning Apply, the one that "
    "goes into the sampler."
)
_NO_RUN = (
    "No finished run of this model is remembered. Connect the latent of the sampler that uses it, or the picture "
    "decoded from it, and sample again (with another seed, say)."
)
_TOLD_IN_THE_LOG = (
    "No finished run of this model that dropped tokens is remembered. Evaluations that were forecast are told in the "
    "log line of the run (AT-EDM Auto, Step Forecast), not here."
)
_NO_MAPS = (
    "Token maps were not recorded: this was sampled before a report was in the workflow. The numbers are complete. For "
    "the maps, sample again (with another seed, say)."
)
_NO_PRUNING = "Every token was computed in every model call, so there is nothing to map."
_NOT_TRACED = (
    "the result could not be traced to a run of this model; this is the model's last run. Connect the sampler's "
    "latent, or a picture made from it."
)


class ATEDMReport(io.ComfyNode):
    """A patched MODEL and what it made in, pictures and text out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMReport",
            display_name="AT-EDM Report",
            category="model/patch/unet",
            description=(
                "Shows what AT-EDM did in a run: which tokens each block kept, tokens and FLOPs over the run, and time "
                "per step; for CAT Pruning, step by step. Connect the model from AT-EDM Apply or CAT Pruning Apply and "
                "the picture or latent that was made with it."
            ),
            search_aliases=["atedm", "at-edm", "cat", "token map", "flops", "statistics", "is it working", "compare"],
            inputs=[
                io.Model.Input("model", tooltip="The model that comes out of AT-EDM Apply or CAT Pruning Apply."),
                io.MultiType.Input(
                    "result",
                    [io.Image, io.Latent],
                    tooltip=(
                        "What was sampled with it: the decoded picture, which the maps are laid over, or the sampler's "
                        "latent."
                    ),
                ),
            ],
            outputs=[
                named_output(io.Image, "token_maps", "Which tokens were kept, block by block or step by step."),
                named_output(io.Image, "chart", "Tokens kept and FLOPs saved, over the run and by block or step."),
                named_output(io.String, "report", "Everything in numbers, as text."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, result: Any) -> io.NodeOutput:
        method = applied_method(checked_model(model)) or applied_cat(model) or applied_auto(model)
        if method is None and applied_forecast(model) is not None:
            return _say("Forecasts are told in the log", _TOLD_IN_THE_LOG)
        if method is None:
            return _say("This model is not pruned", _NOTHING_APPLIED)
        record, traced = find_record(method, "result")
        if record is None:
            return _say("No run to report", _TOLD_IN_THE_LOG if applied_auto(model) else _NO_RUN)
        baseline = find_baseline(record) if record.pruned else None
        text = describe_run(record, baseline)
        if not traced:
            text = f"{text}\n\nnote: {_NOT_TRACED}"
        maps, chart = _token_maps(record, model, result), _chart(record, baseline)
        _show_line(cls.hidden, headline(record))
        return io.NodeOutput(maps, chart, text, ui=_shown(maps, chart, text))


def _say(title: str, text: str) -> io.NodeOutput:
    """The same sentence in all three outputs: a report that cannot be made must not stop the workflow."""
    card = _card(title, text)
    return io.NodeOutput(card, card, text, ui=_shown(card, card[:0], text))


def _token_maps(record: RunRecord, model: Any, result: Any) -> torch.Tensor:
    """One sheet for every picture of the batch that was recorded: `[S, H, W, 3]`."""
    from ..report.maps import draw_maps

    samples = max((len(place.kept_share) for place in record.places if place.kept_share is not None), default=0)
    if samples == 0:
        return _card(f"Tokens {record.wording.kept}", _NO_MAPS if record.pruned else _NO_PRUNING)
    pictures = _pictures(model, result)
    sheets = []
    for sample in range(samples):
        picture = pictures[sample].numpy() if pictures is not None and sample < len(pictures) else None
        sheets.append(_image(draw_maps(record, sample, picture)))
    return torch.cat(sheets)


def _chart(record: RunRecord, baseline: RunRecord | None) -> torch.Tensor:
    from ..report.chart import draw_chart

    if not record.places:
        return _card(headline(record), " ".join(record.notes))
    return _image(draw_chart(record, baseline))


def _pictures(model: Any, result: Any) -> torch.Tensor | None:
    """`[B, H, W, 3]` on the CPU: the pictures given, or a preview of the latent given."""
    if isinstance(result, dict):
        samples = result.get("samples")
        return latent_preview(model, samples) if isinstance(samples, torch.Tensor) else None
    return result[..., :3].float().cpu() if isinstance(result, torch.Tensor) and result.ndim == 4 else None


def _card(title: str, text: str) -> torch.Tensor:
    from ..report.card import draw_card

    return _image(draw_card(title, text))


def _image(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels)[None]


def _shown(maps: torch.Tensor, chart: torch.Tensor, text: str) -> dict[str, Any]:
    """Pictures for the node itself, and the text for those who read results over the API."""
    images = [one for batch in (chart, maps) if len(batch) for one in ui.PreviewImage(batch).as_dict()["images"]]
    return {"images": images, "text": (text,)}


def _show_line(hidden: Any, line: str) -> None:
    """One line of text under the node's inputs."""
    from server import PromptServer

    node = getattr(hidden, "unique_id", None)
    if node and getattr(PromptServer, "instance", None) is not None:
        PromptServer.instance.send_progress_text(line, node)
