"""Workflows that end in an AT-EDM Report, and what came of them."""

from __future__ import annotations

from typing import Any

from in_process import InProcessHost, Run

Graph = dict[str, dict[str, Any]]


def sampler(
    seed: int, steps: int, model: str, latent: str, denoise: float = 1.0, prompts: tuple[str, str] = ("text", "text")
) -> dict[str, Any]:
    """A KSampler; `prompts` are the nodes of both."""
    how = {"cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": denoise, "seed": seed, "steps": steps}
    positive, negative = prompts
    links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return {"class_type": "KSampler", "inputs": {**how, **{name: [node, 0] for name, node in links.items()}}}


def reporter(model: str, result: str) -> dict[str, Any]:
    """The report node."""
    return {"class_type": "ATEDMReport", "inputs": {"model": [model, 0], "result": [result, 0]}}


def ending(found: Graph, report: str) -> Graph:
    """With a picture decoded and shown, and reported by its `picture`, its `latent`, or not at all."""
    found["decode"] = {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["load", 2]}}
    found["save"] = {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}}
    if report:
        found["report"] = reporter("prune", {"picture": "decode", "latent": "sample"}[report])
    return found


def text_of(run: Run, node: str = "report") -> str:
    """What a report said."""
    return str(run.outputs[node]["text"][0])


def shown(run: Run, node: str = "report") -> list[Any]:
    """The pictures that a report shows on its node, in one of its two shades."""
    (panel,) = run.outputs[node]["atedm_report"]
    assert len(panel["light"]) == len(panel["dark"])
    return list(panel["light"])


def executed(run: Run) -> set[str]:
    """The nodes that ran; the others' results came from the cache."""
    return {data["node"] for name, data in run.events if name == "executing" and data["node"]}


def records(host: InProcessHost) -> list[Any]:
    """Of the runs that are remembered."""
    return [run.record for run in host.module("patches.host.finished_runs")._finished]
