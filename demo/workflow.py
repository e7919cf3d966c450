"""Workflows in ComfyUI's API format, up to the sampler. Plain data; no ComfyUI needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Node = dict[str, Any]
Workflow = dict[str, Node]
Link = list[Any]
"""The name of a node, and which of its outputs."""

LOADER = "ATEDMDemoLoader"
APPLY = "ATEDMApply"
RECORD = "ATEDMDemoRecord"


@dataclass(frozen=True)
class Sampling:
    """How pictures are made; the defaults are those that the demo models were judged with."""

    steps: int = 20
    cfg: float = 4.0
    sampler: str = "euler"
    scheduler: str = "normal"
    size: int = 256
    negative: str = ""
    batch: int = 1


@dataclass(frozen=True)
class Loader:
    """The node that gives MODEL, CLIP and VAE, in that order."""

    node_id: str = LOADER
    inputs: dict[str, Any] = field(default_factory=dict)


def node(class_type: str, **inputs: Any) -> Node:
    """One node."""
    return {"class_type": class_type, "inputs": inputs}


def sampled(nodes: Workflow, model: Link, sampling: Sampling, prompt: str, seed: int) -> Workflow:
    """Everything up to the sampler, which is node `sample`.

    Args:
        nodes: what loads the model, by the name `load`, and what changes it.
        model: the output of theirs that is sampled.
        sampling: how.
        prompt: as CLIPTextEncode takes it.
        seed: of the noise.
    """
    workflow = dict(nodes)
    for name, text in (("positive", prompt), ("negative", sampling.negative)):
        workflow[name] = node("CLIPTextEncode", clip=["load", 1], text=text)
    workflow["latent"] = node("EmptyLatentImage", width=sampling.size, height=sampling.size, batch_size=sampling.batch)
    workflow["sample"] = node(
        "KSampler",
        model=model,
        positive=["positive", 0],
        negative=["negative", 0],
        latent_image=["latent", 0],
        seed=seed,
        steps=sampling.steps,
        cfg=sampling.cfg,
        sampler_name=sampling.sampler,
        scheduler=sampling.scheduler,
        denoise=1.0,
    )
    return workflow
