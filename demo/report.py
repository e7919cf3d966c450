"""The demo's result in words and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .pictures import mean_difference, psnr
from .workflow import Sampling


def total_cost(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all recorded runs together kept and saved."""
    keys = ("tokens", "tokens_kept", "attention_flops_full", "attention_flops", "unet_flops_full", "unet_flops")
    total: dict[str, Any] = {key: sum(record[key] for record in records) for key in keys}
    total["share_of_tokens_kept"] = _share(total["tokens_kept"], total["tokens"])
    total["attention_flops_saved"] = 1 - _share(total["attention_flops"], total["attention_flops_full"])
    total["unet_flops_saved"] = 1 - _share(total["unet_flops"], total["unet_flops_full"])
    return total


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def distances(full: Image.Image, pruned: Image.Image) -> dict[str, Any]:
    """How far the pruned picture is from the full one."""
    return {"psnr_db": psnr(full, pruned), "mean_abs_difference": mean_difference(full, pruned)}


def build(
    sampling: Sampling,
    ratio: float,
    machine: str,
    pictures: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    times: Mapping[str, object],
) -> dict[str, Any]:
    """Everything the demo found out."""
    values = [entry["psnr_db"] for entry in pictures if entry["psnr_db"] is not None]
    return {
        "machine": machine,
        "settings": {"prune_ratio": ratio, **vars(sampling)},
        "cost": total_cost(records),
        "times": dict(times),
        "psnr_db_mean": statistics.fmean(values) if values else None,
        "blocks": _blocks(records),
        "pictures": list(pictures),
    }


def _blocks(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tokens kept per block, over all recorded runs."""
    merged: dict[str, dict[str, Any]] = {}
    for record in records:
        for block in record["blocks"]:
            entry = merged.setdefault(
                block["name"], dict.fromkeys(("calls", "pruned_calls", "tokens", "tokens_kept"), 0)
            )
            for key in entry:
                entry[key] += block[key]
    return [
        {"name": name, **entry, "share_kept": _share(entry["tokens_kept"], entry["tokens"])}
        for name, entry in merged.items()
    ]


def as_text(report: Mapping[str, Any]) -> str:
    """A table a person can read."""
    settings, cost, times = report["settings"], report["cost"], report["times"]
    lines = [
        f"AT-EDM demo: prune_ratio {settings['prune_ratio']:g}, {settings['steps']} steps {settings['sampler']},"
        f" cfg {settings['cfg']:g}, {settings['size']} x {settings['size']}",
        f"on {report['machine']}",
        "",
        f"tokens kept in attention blocks   {cost['share_of_tokens_kept']:7.1%}",
        f"FLOPs saved in attention blocks   {cost['attention_flops_saved']:7.1%}",
        f"FLOPs saved in the whole U-Net    {cost['unet_flops_saved']:7.1%}   (choosing tokens not counted)",
    ]
    if times:
        low, high = times["speedup_range"]
        lines += [
            f"seconds of sampling, full         {times['sampling_seconds_full']:7.2f}",
            f"seconds of sampling, pruned       {times['sampling_seconds_pruned']:7.2f}",
            f"speed-up by pruning              {times['speedup_median']:7.2f}x (median of {times['repeats']} pairs,"
            f" {low:.2f} to {high:.2f})",
        ]
        if times["speedup_median"] < 1:
            lines.append(
                "Slower here: in blocks as small as this model's, choosing tokens costs more than pruning saves."
            )
    lines += ["", f"{'PSNR dB':>8}  {'mean diff':>9}  {'shows it':>14}  prompt (seed)"]
    lines += [_picture_line(entry) for entry in report["pictures"]]
    lines += ["", "block        share of tokens kept"]
    lines += [f"{block['name']:<12} {block['share_kept']:6.1%}" for block in report["blocks"]]
    return "\n".join(lines) + "\n"


def _picture_line(entry: Mapping[str, Any]) -> str:
    ratio = "equal" if entry["psnr_db"] is None else f"{entry['psnr_db']:.1f}"
    return f"{ratio:>8}  {entry['mean_abs_difference']:>9.2f}  {_shown(entry):>14}  {entry['prompt']} ({entry['seed']})"


def _shown(entry: Mapping[str, Any]) -> str:
    """Whether the full and the pruned picture show what the prompt says."""
    if entry["full_is_right"] is None:
        return "-"
    words = {True: "yes", False: "no"}
    return f"{words[entry['full_is_right']]} / {words[entry['pruned_is_right']]}"


def write(report: Mapping[str, Any], folder: Path) -> None:
    """summary.json and summary.txt."""
    (folder / "summary.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "summary.txt").write_text(as_text(report), encoding="utf-8")
