"""What several example workflows have in common, group by group."""

from __future__ import annotations

from typing import Any

from .graph import Graph, Node, Out

PROMPT = "a red fox resting in autumn leaves, soft morning light, detailed fur"
NEGATIVE = "blurry, low quality, watermark, text"

Prompts = tuple[Out, Out]


def load(graph: Graph, checkpoint: str, title: str = "1 - Choose a checkpoint") -> Node:
    """A checkpoint that has everything."""
    graph.group(title)
    return graph.node("CheckpointLoaderSimple", ckpt_name=checkpoint)


def describe(graph: Graph, clip: Out, prompt: str = PROMPT, negative: str = NEGATIVE) -> Prompts:
    """Two prompts."""
    graph.group("2 - Describe the picture")
    positive = graph.node("CLIPTextEncode", "Prompt", text=prompt, clip=clip)
    against = graph.node("CLIPTextEncode", "Negative prompt", text=negative, clip=clip)
    return positive["CONDITIONING"], against["CONDITIONING"]


def empty_latent(
    graph: Graph, width: int = 1024, height: int = 1024, kind: str = "EmptyLatentImage", title: str = "3 - Sample"
) -> Out:
    """An empty latent at the head of the group that samples."""
    graph.group(title)
    return graph.node(kind, width=width, height=height, batch_size=1)["LATENT"]


def sample(graph: Graph, model: Out, prompts: Prompts, latent: Out, title: str = "", **how: Any) -> Out:
    """A sampler; `how` are its settings where they differ from SDXL's."""
    settings: dict[str, Any] = {
        "seed": 1,
        "steps": 30,
        "cfg": 6.0,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
    } | how
    sampled = graph.node(
        "KSampler", title, model=model, positive=prompts[0], negative=prompts[1], latent_image=latent, **settings
    )
    return sampled["LATENT"]


def save(graph: Graph, samples: Out, vae: Out, prefix: str = "AT-EDM") -> Out:
    """Decoded and saved; gives the picture."""
    graph.group("4 - The picture")
    decoded = graph.node("VAEDecode", samples=samples, vae=vae)
    graph.node("SaveImage", images=decoded["IMAGE"], filename_prefix=prefix)
    return decoded["IMAGE"]


def report(graph: Graph, model: Out, picture: Out, width: float = 680) -> Out:
    """What was saved, as pictures and as text."""
    graph.group("5 - What was saved")
    return graph.node("ATEDMReport", model=model, result=picture, wide=width)["report"]
