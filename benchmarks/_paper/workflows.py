"""The workflows that are queued, in ComfyUI's API format. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .rows import BUDGET, Node, Plan

Workflow = dict[str, Node]
PICTURE, TEXT = "show", "text"


@dataclass(frozen=True)
class Sampling:
    """How every picture is drawn; the paper's where `steps`, `cfg` and `size` are left alone."""

    steps: int = 50
    cfg: float = 7.0
    sampler: str = "euler"
    scheduler: str = "normal"
    size: int = 1024
    negative: str = ""


DEMO_SAMPLING = Sampling(steps=20, cfg=4.0, size=256)
"""What the demo model was judged with."""


def plain(text: str) -> str:
    """A caption that means itself: ComfyUI reads parentheses as weights."""
    return text.replace("(", r"\(").replace(")", r"\)")


def picture(loader: Node, plan: Plan, sampling: Sampling, prompt: str, seed: int) -> Workflow:
    """One picture, into the server's folder for temporary files, shown by node `PICTURE`."""
    model: list[Any] = ["load", 0]
    workflow: Workflow = {"load": loader}
    for name, node in plan.nodes.items():
        workflow[name] = {**node, "inputs": dict(node["inputs"])}
    if plan.nodes:
        last = list(plan.nodes)[-1]
        workflow[last]["inputs"]["model"] = model
        model = [last, 0]
    for name, text in (("positive", prompt), ("negative", sampling.negative)):
        workflow[name] = _node("CLIPTextEncode", clip=["load", 1], text=plain(text))
    workflow["latent"] = _node("EmptyLatentImage", width=sampling.size, height=sampling.size, batch_size=1)
    workflow["sample"] = _node(
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
    workflow["decode"] = _node("VAEDecode", samples=["sample", 0], vae=["load", 2])
    workflow[PICTURE] = _node("PreviewImage", images=["decode", 0])
    return workflow


def probe(loader: Node, size: int) -> Workflow:
    """Loads the checkpoint and reads its structure, which node `TEXT` shows: the quickest way to know what it is."""
    asked = _node(BUDGET, model=["load", 0], width=size, height=size, saving=0.0)
    return {"load": loader, "budget": asked, TEXT: _node("PreviewAny", source=["budget", 1])}


NODES = ("CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode", "PreviewImage", "PreviewAny")
"""What every server has to have, beside the pack's nodes and the loader."""


def _node(class_type: str, **inputs: Any) -> Node:
    return {"class_type": class_type, "inputs": inputs}
