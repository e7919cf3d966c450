"""AT-EDM Report: what the run that made a result did, by either method, as pictures and text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..patches.dit.apply import applied_cat
from ..patches.host.finished_runs import find_record, measured_speed
from ..patches.host.preview import latent_preview
from ..patches.host.shown_files import keep_files
from ..patches.steps.apply import applied_forecast
from ..patches.steps.auto import applied_auto
from ..patches.unet.apply import applied_method
from ..report.distance import Distance, distance
from ..report.panel import panel_of
from ..report.record import RunRecord, with_forecasts
from ..report.text import describe_run
from .types import ALIASES, checked_image, checked_model, named_output

_NOTHING_APPLIED = (
    "Nothing was done to this model. Connect the model that comes out of AT-EDM Apply, CAT Pruning Apply, Step "
    "Forecast Apply or AT-EDM Auto, the one that goes into the sampler."
)
_NO_RUN = (
    "No finished run of this model is remembered. Connect the latent of the sampler that uses it, or the picture "
    "decoded from it, and sample again (with another seed, say)."
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
_OTHER_SIZE = "the result and the picture to compare with are not of one size, so their distance was not measured."
PANEL = "atedm_report"
"""The key under which the page finds what it shows on the node."""


class ATEDMReport(io.ComfyNode):
    """A patched MODEL and what it made in, pictures and text out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ATEDMReport",
            display_name="AT-EDM Report",
            category="model/patch/unet",
            description=(
                "Shows how much faster a run was, how far its picture is from the full model's, and what was left out: "
                "which tokens each block or step computed, and which evaluations were forecast. Connect the model from "
                "AT-EDM Apply, CAT Pruning Apply, Step Forecast Apply or AT-EDM Auto, and the picture or latent that "
                "was made with it."
            ),
            search_aliases=[*ALIASES, "token map", "flops", "statistics", "is it working", "compare", "psnr", "ssim"],
            inputs=[
                io.Model.Input("model", tooltip="The model that comes out of one of the pack's nodes."),
                io.MultiType.Input(
                    "result",
                    [io.Image, io.Latent],
                    tooltip=(
                        "What was sampled with it: the decoded picture, which the maps are laid over, or the sampler's "
                        "latent."
                    ),
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="The full model's picture at the same seed. With it, the result's distance is measured.",
                ),
                io.Image.Input(
                    "alternative",
                    optional=True,
                    tooltip="Another way to such a picture, say fewer steps, measured against the same reference.",
                ),
            ],
            outputs=[
                named_output(io.Image, "token_maps", "Which tokens were kept, block by block or step by step."),
                named_output(io.Image, "chart", "What was computed and saved, over the run and by block or step."),
                named_output(io.String, "report", "Everything in numbers, as text."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, result: Any, reference: Any = None, alternative: Any = None) -> io.NodeOutput:
        from ..report.chart import draw_chart

        checked_model(model)
        pictures = checked_image("reference", reference), checked_image("alternative", alternative)
        methods = [one(model) for one in (applied_method, applied_cat, applied_auto, applied_forecast)]
        applied = [method for method in methods if method is not None]
        if not applied:
            return _say("Nothing was done to this model", _NOTHING_APPLIED)
        found = [find_record(method, "result") for method in applied]
        records = [record for record, _ in found if record is not None]
        if not records:
            return _say("No run to report", _NO_RUN)
        record = records[0] if len(records) == 1 else with_forecasts(records[0], records[-1])
        measured = measured_speed(record) if record.pruned and len(records) == 1 else None
        distances, fits = _distances(result, *pictures)
        text = describe_run(record, measured, distances)
        notes = [] if all(traced for _, traced in found) else [_NOT_TRACED]
        notes += [] if fits else [_OTHER_SIZE]
        text = "\n\n".join([text, *(f"note: {note}" for note in notes)])
        maps = _token_maps(record, model, result, dark=False)
        dark = _token_maps(record, model, result, dark=True)
        sheets = {"light": _sheets(record, maps, dark=False), "dark": _sheets(record, dark, dark=True)}
        panel = panel_of(record, measured, distances) | {"notes": notes} | sheets
        chart = _image(draw_chart(record, measured))
        return io.NodeOutput(maps, chart, text, ui=_shown(panel, text))


def _say(title: str, text: str) -> io.NodeOutput:
    """The same sentence in all three outputs: a report that cannot be made must not stop the workflow."""
    light, dark = (_card(title, text, dark) for dark in (False, True))
    panel = {"light": _saved((light,)), "dark": _saved((dark,))}
    return io.NodeOutput(light, light, text, ui=_shown(panel, text))


def _distances(result: Any, reference: Any, alternative: Any) -> tuple[list[tuple[str, Distance]], bool]:
    """How far result and alternative are from the reference, where there is one, and whether their sizes allow that."""
    if reference is None or not isinstance(result, torch.Tensor):
        return [], reference is None
    given = {"result": result, "alternative": alternative}
    found = {name: distance(_rgb(one), _rgb(reference)) for name, one in given.items() if one is not None}
    return [(name, one) for name, one in found.items() if one is not None], None not in found.values()


def _sheets(record: RunRecord, maps: torch.Tensor, dark: bool) -> list[dict[str, Any]]:
    """What stands below the figures on the node: the chart and the maps."""
    from ..report.chart import draw_chart

    drawn = record.places or record.evaluations
    chart = [_image(draw_chart(record, None, dark=dark, figures=False))] if drawn else []
    return _saved([*chart, maps] if record.places else chart)


def _token_maps(record: RunRecord, model: Any, result: Any, dark: bool) -> torch.Tensor:
    """One sheet for every picture of the batch that was recorded: `[S, H, W, 3]`."""
    from ..report.maps import draw_maps

    samples = max((len(place.kept_share) for place in record.places if place.kept_share is not None), default=0)
    if samples == 0:
        pruned = record.spent.pruned_calls > 0
        return _card(f"Tokens {record.wording.kept}", _NO_MAPS if pruned else _NO_PRUNING, dark)
    pictures = _pictures(model, result)
    sheets = []
    for sample in range(samples):
        picture = pictures[sample].numpy() if pictures is not None and sample < len(pictures) else None
        sheets.append(_image(draw_maps(record, sample, picture, dark=dark)))
    return torch.cat(sheets)


def _pictures(model: Any, result: Any) -> torch.Tensor | None:
    """`[B, H, W, 3]` on the CPU: the pictures given, or a preview of the latent given."""
    if isinstance(result, dict):
        samples = result.get("samples")
        return latent_preview(model, samples) if isinstance(samples, torch.Tensor) else None
    return _rgb(result) if isinstance(result, torch.Tensor) and result.ndim == 4 else None


def _rgb(pictures: torch.Tensor) -> torch.Tensor:
    return pictures[..., :3].float().cpu()


def _card(title: str, text: str, dark: bool) -> torch.Tensor:
    from ..report.card import draw_card

    return _image(draw_card(title, text, dark=dark))


def _image(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels)[None]


def _saved(sheets: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
    """Sheets as files that the page can fetch."""
    return [one for batch in sheets for one in ui.PreviewImage(batch).as_dict()["images"]]


def _shown(panel: dict[str, Any], text: str) -> dict[str, Any]:
    """What the page shows on the node, and the text for those who read results over the API."""
    keep_files([*panel["light"], *panel["dark"]])
    return {PANEL: (panel,), "text": (text,)}
