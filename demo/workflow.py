"""The workflows the demo queues, in ComfyUI's API format. Plain data; no ComfyUI needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Workflow = dict[str, dict[str, Any]]

LOADER = "ATEDMDemoLoader"
APPLY = "ATEDMApply"
RECORD = "ATEDMDemoRecord"
SINK = "ATEDMDemoSink"


@dataclass(frozen=True)
class Sampling:
    """How pictures are made: the same for both variants."""

    steps: int = 20
    cfg: float = 4.0
    sampler: str = "euler"
    scheduler: str = "normal"
    size: int = 256
    negative: str = ""


@dataclass(frozen=True)
class Loader:
    """The node that gives MODEL, CLIP and VAE, in that order."""

    node_id: str = LOADER
    inputs: dict[str, Any] = field(default_factory=dict)


def _sampled(
    loader: Loader, sampling: Sampling, prompt: str, seed: int, ratio: float | None, record: str | None
) -> Workflow:
    """Everything up to the sampler, which is node `sample`."""
    model: list[Any] = ["load", 0]
    workflow: Workflow = {"load": {"class_type": loader.node_id, "inputs": dict(loader.inputs)}}
    if ratio is not None:
        workflow["prune"] = {"class_type": APPLY, "inputs": {"model": model, "prune_ratio": ratio}}
        model = ["prune", 0]
    if record is not None:
        inputs = {"model": model, "name": record, "width": sampling.size, "height": sampling.size}
        workflow["record"] = {"class_type": RECORD, "inputs": inputs}
        model = ["record", 0]
    for name, text in (("positive", prompt), ("negative", sampling.negative)):
        workflow[name] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["load", 1], "text": text}}
    latent = {"width": sampling.size, "height": sampling.size, "batch_size": 1}
    workflow["latent"] = {"class_type": "EmptyLatentImage", "inputs": latent}
    workflow["sample"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": model,
            "positive": ["positive", 0],
            "negative": ["negative", 0],
            "latent_image": ["latent", 0],
            "seed": seed,
            "steps": sampling.steps,
            "cfg": sampling.cfg,
            "sampler_name": sampling.sampler,
            "scheduler": sampling.scheduler,
            "denoise": 1.0,
        },
    }
    return workflow


def picture(
    loader: Loader, sampling: Sampling, prompt: str, seed: int, ratio: float | None = None, record: str | None = None
) -> Workflow:
    """A picture saved to the output folder by node `save`; with `ratio` pruned, with `record` also recorded."""
    workflow = _sampled(loader, sampling, prompt, seed, ratio, record)
    workflow["decode"] = {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["load", 2]}}
    workflow["save"] = {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "demo"}}
    return workflow


def sampling_only(loader: Loader, sampling: Sampling, prompt: str, seed: int, ratio: float | None = None) -> Workflow:
    """Sampling and nothing after it, for measuring time."""
    workflow = _sampled(loader, sampling, prompt, seed, ratio, None)
    workflow["sink"] = {"class_type": SINK, "inputs": {"samples": ["sample", 0]}}
    return workflow
