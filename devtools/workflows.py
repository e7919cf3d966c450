"""The example workflows, as ComfyUI's template browser shows them.

    python -m devtools.workflows

writes example_workflows/*.json anew from what the nodes look like now. The pictures beside them are made by
`python -m demo.thumbnails`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .commands import link_packs
from .console import DevError
from .graph import Definitions, Graph, Node, Out
from .layout import LOGS, ROOT, current_host
from .server import Server

FOLDER = ROOT / "example_workflows"
SDXL = "sd_xl_base_1.0.safetensors"
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
PROMPT = "a red fox resting in autumn leaves, soft morning light, detailed fur"
NEGATIVE = "blurry, low quality, watermark, text"

Builder = Callable[[Graph], None]


def _load(graph: Graph, checkpoint: str = SDXL, title: str = "1 - Choose a checkpoint") -> Node:
    graph.group(title)
    return graph.node("CheckpointLoaderSimple", ckpt_name=checkpoint)


def _prompts(graph: Graph, clip: Out, prompt: str = PROMPT, negative: str = NEGATIVE) -> tuple[Out, Out]:
    graph.group("2 - Describe the picture")
    positive = graph.node("CLIPTextEncode", "Prompt", text=prompt, clip=clip)
    against = graph.node("CLIPTextEncode", "Negative prompt", text=negative, clip=clip)
    return positive["CONDITIONING"], against["CONDITIONING"]


def _sample(graph: Graph, model: Out, prompts: tuple[Out, Out], latent: Out, title: str = "", **how: Any) -> Node:
    settings: dict[str, Any] = {
        "seed": 1,
        "steps": 30,
        "cfg": 6.0,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
    } | how
    return graph.node(
        "KSampler", title, model=model, positive=prompts[0], negative=prompts[1], latent_image=latent, **settings
    )


def _save(graph: Graph, samples: Out, vae: Out, prefix: str = "AT-EDM") -> Node:
    graph.group("4 - The picture")
    decoded = graph.node("VAEDecode", samples=samples, vae=vae)
    graph.node("SaveImage", images=decoded["IMAGE"], filename_prefix=prefix)
    return decoded


def text_to_image(graph: Graph) -> None:
    """The smallest: one node more than without."""
    loaded = _load(graph)
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    graph.note(
        "**AT-EDM Apply** goes between the checkpoint (and its LoRAs) and the sampler. `prune_ratio` is the share of "
        "tokens that attention blocks drop: higher is faster and departs further from the full model's picture, 0 "
        "changes nothing.\n\nThe log says after each run what was saved.",
        "AT-EDM",
    )
    prompts = _prompts(graph, loaded["CLIP"])
    graph.group("3 - Sample")
    latent = graph.node("EmptyLatentImage", width=1024, height=1024, batch_size=1)
    sampled = _sample(graph, pruned["MODEL"], prompts, latent["LATENT"])
    _save(graph, sampled["LATENT"], loaded["VAE"])


def image_to_image(graph: Graph) -> None:
    """A picture as the start."""
    loaded = _load(graph, title="1 - Checkpoint and picture")
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    picture = graph.node("LoadImage", image="example.png")
    prompts = _prompts(graph, loaded["CLIP"], "an oil painting of a landscape, thick brush strokes")
    graph.note(
        "With `denoise` below 1 the run starts part of the way, past the phase in which the schedule spares blocks, "
        "so that more of it is pruned.",
        "AT-EDM and denoise",
    )
    graph.group("3 - Sample")
    scaled = graph.node("ImageScaleToTotalPixels", image=picture["IMAGE"], upscale_method="lanczos", megapixels=1.0)
    latent = graph.node("VAEEncode", pixels=scaled["IMAGE"], vae=loaded["VAE"])
    sampled = _sample(graph, pruned["MODEL"], prompts, latent["LATENT"], denoise=0.6)
    _save(graph, sampled["LATENT"], loaded["VAE"])


def hires_fix(graph: Graph) -> None:
    """Two passes with one pruned model: attention grows with the square of the size, and so does what it saves."""
    loaded = _load(graph)
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    graph.note(
        "One **AT-EDM Apply** serves both passes; every run keeps its own account. The larger the picture, the larger "
        "attention's share of the time, and with it what pruning saves.",
        "AT-EDM in two passes",
    )
    prompts = _prompts(graph, loaded["CLIP"])
    graph.group("3 - Sample")
    latent = graph.node("EmptyLatentImage", width=1024, height=1024, batch_size=1)
    first = _sample(graph, pruned["MODEL"], prompts, latent["LATENT"], "First pass")
    graph.group("3b - Enlarge and sample again")
    larger = graph.node("LatentUpscaleBy", samples=first["LATENT"], upscale_method="bicubic", scale_by=1.5)
    second = _sample(
        graph, pruned["MODEL"], prompts, larger["LATENT"], "Second pass at 1.5 times the size", steps=20, denoise=0.55
    )
    _save(graph, second["LATENT"], loaded["VAE"])


def inpainting(graph: Graph) -> None:
    """A part of a picture."""
    loaded = _load(graph, title="1 - Checkpoint and picture")
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    picture = graph.node("LoadImage", "Picture: paint a mask on it", image="example.png")
    prompts = _prompts(graph, loaded["CLIP"], "a hot air balloon in the sky")
    graph.note(
        "Right-click the picture and choose **Open in MaskEditor** to paint over what is to be drawn anew. Without a "
        "mask the picture comes back as it is.",
        "Mask",
    )
    graph.group("3 - Sample")
    encoded = graph.node("VAEEncode", pixels=picture["IMAGE"], vae=loaded["VAE"])
    soft = graph.node("GrowMask", mask=picture["MASK"], expand=8, tapered_corners=True)
    latent = graph.node("SetLatentNoiseMask", samples=encoded["LATENT"], mask=soft["MASK"])
    sampled = _sample(graph, pruned["MODEL"], prompts, latent["LATENT"], denoise=0.9)
    _save(graph, sampled["LATENT"], loaded["VAE"])


def lora_and_controlnet(graph: Graph) -> None:
    """Where AT-EDM Apply goes when others change the model too."""
    loaded = _load(graph)
    lora = graph.node("LoraLoader", model=loaded["MODEL"], clip=loaded["CLIP"], lora_name="your_sdxl_lora.safetensors")
    pruned = graph.node("ATEDMApply", model=lora["MODEL"])
    graph.note(
        "LoRAs come before **AT-EDM Apply**. ControlNet acts on the prompt and needs nothing. Choose your LoRA and "
        "your ControlNet in their loaders.",
        "Order",
    )
    prompts = _prompts(graph, lora["CLIP"])
    graph.group("2b - Control")
    picture = graph.node("LoadImage", "Picture to follow", image="example.png")
    edges = graph.node("Canny", image=picture["IMAGE"], low_threshold=0.2, high_threshold=0.5)
    network = graph.node("ControlNetLoader", control_net_name="your_sdxl_canny_controlnet.safetensors")
    controlled = graph.node(
        "ControlNetApplyAdvanced",
        positive=prompts[0],
        negative=prompts[1],
        control_net=network["CONTROL_NET"],
        image=edges["IMAGE"],
        strength=0.7,
        end_percent=0.8,
    )
    graph.group("3 - Sample")
    latent = graph.node("EmptyLatentImage", width=1024, height=1024, batch_size=1)
    steered = (controlled["positive"], controlled["negative"])
    sampled = _sample(graph, pruned["MODEL"], steered, latent["LATENT"])
    _save(graph, sampled["LATENT"], loaded["VAE"])


def few_steps(graph: Graph) -> None:
    """Distilled for few steps, and pruned on top."""
    loaded = _load(graph)
    lora = graph.node(
        "LoraLoaderModelOnly",
        "Lightning or LCM LoRA",
        model=loaded["MODEL"],
        lora_name="sdxl_lightning_8step_lora.safetensors",
    )
    schedule = graph.node("ATEDMSchedule", early_percent=0.3)
    pruned = graph.node("ATEDMApply", model=lora["MODEL"], schedule=schedule["schedule"], prune_ratio=0.5)
    graph.note(
        "**Lightning** (8 steps): sampler `euler`, scheduler `sgm_uniform`, cfg 1. **LCM**: add ModelSamplingDiscrete "
        "(`lcm`) after the LoRA, and take sampler `lcm`, scheduler `sgm_uniform`, cfg 1 to 2.\n\nFew steps leave few "
        "to mend what pruning changes: begin with a lower `prune_ratio`, or with a longer early phase.",
        "Few steps",
    )
    prompts = _prompts(graph, loaded["CLIP"])
    graph.group("3 - Sample")
    latent = graph.node("EmptyLatentImage", width=1024, height=1024, batch_size=1)
    how: dict[str, Any] = {"steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "sgm_uniform"}
    sampled = _sample(graph, pruned["MODEL"], prompts, latent["LATENT"], **how)
    _save(graph, sampled["LATENT"], loaded["VAE"])


def with_easycache(graph: Graph) -> None:
    """Two ways of saving that do not know of each other: whole steps, and tokens in the steps that are left."""
    loaded = _load(graph)
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    cached = graph.node("EasyCache", model=pruned["MODEL"])
    graph.note(
        "**EasyCache** (part of ComfyUI) leaves out whole steps that would change little; AT-EDM prunes those that "
        "are left. Each departs a little from the full picture: with both, lower one of them. The report counts the "
        "steps that ran.",
        "Stacked",
    )
    prompts = _prompts(graph, loaded["CLIP"])
    graph.group("3 - Sample")
    latent = graph.node("EmptyLatentImage", width=1024, height=1024, batch_size=1)
    sampled = _sample(graph, cached["MODEL"], prompts, latent["LATENT"])
    decoded = _save(graph, sampled["LATENT"], loaded["VAE"])
    graph.group("5 - What was saved")
    graph.node("ATEDMReport", model=pruned["MODEL"], result=decoded["IMAGE"], wide=460)


def sd15_text_to_image(graph: Graph) -> None:
    """The same on SD 1.5, above the size at which attention begins to matter there."""
    loaded = _load(graph, SD15)
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"], prune_ratio=0.5)
    graph.note(
        "SD 1.5 has one attention layer per block, where tokens are dropped after its self-attention. Attention is a "
        "smaller part of this model: there is more to save in large pictures than in small ones.",
        "SD 1.5",
    )
    prompts = _prompts(graph, loaded["CLIP"])
    graph.group("3 - Sample")
    latent = graph.node("EmptyLatentImage", width=512, height=768, batch_size=1)
    sampled = _sample(graph, pruned["MODEL"], prompts, latent["LATENT"], steps=25, cfg=7.0)
    _save(graph, sampled["LATENT"], loaded["VAE"])


def compare(graph: Graph) -> None:
    """The same seed with and without, and the report of both."""
    loaded = _load(graph)
    off = graph.node("ATEDMApply", "AT-EDM off (prune_ratio 0)", model=loaded["MODEL"], prune_ratio=0.0)
    pruned = graph.node("ATEDMApply", "AT-EDM on", model=loaded["MODEL"])
    prompts = _prompts(graph, loaded["CLIP"])
    latent = graph.node("EmptyLatentImage", width=1024, height=1024, batch_size=1)
    seed = graph.node("PrimitiveInt", "Seed of both", value=1)
    graph.group("3 - Sample twice")
    whole = _sample(graph, off["MODEL"], prompts, latent["LATENT"], "Without", seed=seed["INT"])
    fast = _sample(graph, pruned["MODEL"], prompts, latent["LATENT"], "With AT-EDM", seed=seed["INT"])
    graph.group("4 - Compare")
    first = graph.node("VAEDecode", samples=whole["LATENT"], vae=loaded["VAE"])
    graph.node("PreviewImage", "Without", images=first["IMAGE"])
    second = graph.node("VAEDecode", samples=fast["LATENT"], vae=loaded["VAE"])
    graph.node("PreviewImage", "With AT-EDM", images=second["IMAGE"])
    graph.group("5 - What was saved")
    report = graph.node("ATEDMReport", model=pruned["MODEL"], result=second["IMAGE"], wide=560)
    graph.node("PreviewAny", "In numbers", wide=560, source=report["report"])
    graph.note(
        "The measured speed-up compares time per step of the last run with and the last without AT-EDM. Queue twice: "
        "the first run also warms up.",
        "Measured or predicted",
        560,
    )


WORKFLOWS: dict[str, Builder] = {
    "AT-EDM SDXL text to image": text_to_image,
    "AT-EDM SDXL image to image": image_to_image,
    "AT-EDM SDXL hires fix": hires_fix,
    "AT-EDM SDXL inpainting": inpainting,
    "AT-EDM SDXL with LoRA and ControlNet": lora_and_controlnet,
    "AT-EDM SDXL few steps (Lightning or LCM)": few_steps,
    "AT-EDM SDXL with EasyCache": with_easycache,
    "AT-EDM SD 1.5 text to image": sd15_text_to_image,
    "Compare with and without AT-EDM": compare,
}


def build(definitions: Definitions) -> dict[str, str]:
    """Every example workflow by name, as the text of its file."""
    built = {}
    for name, builder in WORKFLOWS.items():
        graph = Graph(definitions)
        builder(graph)
        built[name] = json.dumps(graph.saved(name), indent=1) + "\n"
    return built


def main() -> None:
    """Write the files."""
    host = current_host()
    if not (host.comfyui / "main.py").is_file():
        raise DevError(f"No ComfyUI in {host.comfyui}. Run `python dev.py host --no-start` first.")
    link_packs(host.base, demo=False)
    with Server(host, LOGS / "workflows-server.log", cpu=True) as server:
        definitions = server.get("/object_info")
    FOLDER.mkdir(exist_ok=True)
    for name, text in build(definitions).items():
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
