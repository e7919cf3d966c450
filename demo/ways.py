"""The ways of drawing that the demo puts side by side, and the workflow of each.

What is queued is the workflow that the picture carries, with a recording node in it: nothing is shown that dropping the
picture into ComfyUI would not draw again.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from devtools.graph import Definitions, Graph, to_api
from devtools.workflow_parts import describe, empty_latent, sample, save

from .workflow import APPLY, RECORD, Loader, Sampling, Workflow

AUTO = "ATEDMAuto"


@dataclass(frozen=True)
class Way:
    """A way to draw the same picture: at most one of the nodes, or fewer steps.

    Attributes:
        name: in file names and records.
        title: in tables and over pictures.
        prune_ratio: of AT-EDM Apply.
        speed_up: of AT-EDM Auto.
        steps: of the sampler, where they are not all.
        control_of: the way whose cost these fewer steps have.
    """

    name: str
    title: str
    prune_ratio: float | None = None
    speed_up: float | None = None
    steps: int | None = None
    control_of: str | None = None


FULL = Way("full", "full")


def methods(prune_ratio: float, speed_up: float) -> tuple[Way, Way]:
    """What this project has to offer."""
    return (
        Way("at-edm", f"AT-EDM at {prune_ratio:g}", prune_ratio=prune_ratio),
        Way("auto", f"AT-EDM Auto at {speed_up:g}", speed_up=speed_up),
    )


def fewer_steps(way: Way, share: float, steps: int) -> Way:
    """The control of a way that costs a `share` of the FLOPs: as many steps as cost that much or a little more."""
    fewer = min(steps, math.ceil(steps * share - 1e-6))
    return Way(f"{way.name}-steps", f"{fewer} of {steps} steps", steps=fewer, control_of=way.name)


def workflow(
    definitions: Definitions, loader: Loader, sampling: Sampling, prompt: str, seed: int, way: Way = FULL
) -> dict[str, Any]:
    """As ComfyUI's interface saves it.

    Args:
        definitions: a host's `/object_info`, with the loader and the pack in it.
        loader: what gives MODEL, CLIP and VAE.
        sampling: how pictures are made.
        prompt: as CLIPTextEncode takes it.
        seed: of the noise.
        way: what is put on the model.
    """
    graph = Graph(definitions)
    graph.group("1 - The model that comes with AT-EDM")
    loaded = graph.node(loader.node_id, **loader.inputs)
    model = loaded["MODEL"]
    if way.prune_ratio is not None:
        model = graph.node(APPLY, model=model, prune_ratio=way.prune_ratio)["MODEL"]
    if way.speed_up is not None:
        model = graph.node(AUTO, model=model, speed_up=way.speed_up)["MODEL"]
    prompts = describe(graph, loaded["CLIP"], prompt, sampling.negative)
    latent = empty_latent(graph, sampling.size, sampling.size)
    latent.node.values["batch_size"] = sampling.batch
    how = {"sampler_name": sampling.sampler, "scheduler": sampling.scheduler, "cfg": sampling.cfg}
    sampled = sample(graph, model, prompts, latent, seed=seed, steps=way.steps or sampling.steps, **how)
    save(graph, sampled, loaded["VAE"], "AT-EDM-demo")
    return graph.saved(f"demo {way.name}")


def recorded(prompt: Mapping[str, Mapping[str, Any]], loader: Loader, name: str, size: int) -> Workflow:
    """The same with a recording node right after the loader, so that it stands around all that follows."""
    changed: Workflow = copy.deepcopy({number: dict(node) for number, node in prompt.items()})
    (source,) = (number for number, node in changed.items() if node["class_type"] == loader.node_id)
    for node in changed.values():
        for key, value in node["inputs"].items():
            if value == [source, 0]:
                node["inputs"][key] = ["record", 0]
    inputs = {"model": [source, 0], "name": name, "width": size, "height": size}
    return {**changed, "record": {"class_type": RECORD, "inputs": inputs}}


def carried(saved: Mapping[str, Any], definitions: Definitions) -> PngInfo:
    """What ComfyUI reads off a picture that is dropped into it, under its own names."""
    info = PngInfo()
    info.add_text("prompt", json.dumps(to_api(saved, definitions)))
    info.add_text("workflow", json.dumps(saved))
    return info


def saved_in(picture: Image.Image) -> tuple[dict[str, Any], dict[str, Any]]:
    """(prompt, workflow) that a picture carries."""
    return json.loads(picture.info["prompt"]), json.loads(picture.info["workflow"])
