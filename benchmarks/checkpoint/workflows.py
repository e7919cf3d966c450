"""The workflows that are queued, in ComfyUI's API format. Plain data."""

from __future__ import annotations

from dataclasses import replace

from demo.workflow import Link, Node, Sampling, Workflow, node, sampled

from .rows import BUDGET, Plan

PICTURE, TEXT = "show", "text"

PAPER_SAMPLING = Sampling(steps=50, cfg=7.0, size=1024)
"""As far as the paper says it; the rest is usual."""


def plain(text: str) -> str:
    """A caption that means itself: ComfyUI reads parentheses as weights."""
    return text.replace("(", r"\(").replace(")", r"\)")


def picture(loader: Node, plan: Plan, sampling: Sampling, prompt: str, seed: int) -> Workflow:
    """One picture, into the server's folder for temporary files, shown by node `PICTURE`."""
    nodes: Workflow = {
        "load": loader,
        **{name: node(one["class_type"], **one["inputs"]) for name, one in plan.nodes.items()},
    }
    model: Link = ["load", 0]
    if plan.nodes:
        last = list(plan.nodes)[-1]
        nodes[last]["inputs"]["model"] = model
        model = [last, 0]
    literal = replace(sampling, negative=plain(sampling.negative))
    workflow = sampled(nodes, model, literal, plain(prompt), seed)
    workflow["decode"] = node("VAEDecode", samples=["sample", 0], vae=["load", 2])
    workflow[PICTURE] = node("PreviewImage", images=["decode", 0])
    return workflow


def probe(loader: Node, size: int) -> Workflow:
    """Loads the checkpoint and reads its structure, which node `TEXT` shows: the quickest way to know what it is."""
    asked = node(BUDGET, model=["load", 0], width=size, height=size, saving=0.0)
    return {"load": loader, "budget": asked, TEXT: node("PreviewAny", source=["budget", 1])}


NODES = ("CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode", "PreviewImage", "PreviewAny")
"""What every server has to have, beside the pack's nodes and the loader."""
