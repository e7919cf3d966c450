"""The example workflows, as ComfyUI's template browser shows them.

    python -m devtools.workflows

writes example_workflows/*.json anew from what the nodes look like now. The pictures beside them are made by
`python -m demo.thumbnails`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .commands import link_packs
from .console import DevError
from .graph import Definitions, Graph
from .layout import LOGS, ROOT, current_host
from .server import Server
from .transformer_workflows import pixart_sigma_text_to_image, sd3_text_to_image
from .workflow_parts import describe, empty_latent, load, report, sample, save

FOLDER = ROOT / "example_workflows"
DEMO_FOLDER = ROOT / "demo" / "example_workflows"
SDXL = "sd_xl_base_1.0.safetensors"
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"

_STEPS = 20
_FEWER_STEPS = 13  # at SDXL's default saving these cost as much as the pruned ones

Builder = Callable[[Graph], None]


def text_to_image(graph: Graph) -> None:
    """The smallest: one node more than without."""
    loaded = load(graph, SDXL)
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    graph.note(
        "**AT-EDM Apply** goes between the checkpoint (and its LoRAs) and the sampler. `prune_ratio` is the share of "
        "tokens that attention blocks drop: higher is faster and departs further from the full model's picture, 0 "
        "changes nothing.\n\nThe log says after each run what was saved.",
        "AT-EDM",
    )
    prompts = describe(graph, loaded["CLIP"])
    latent = empty_latent(graph)
    save(graph, sample(graph, pruned["MODEL"], prompts, latent), loaded["VAE"])


def with_forecast(graph: Graph) -> None:
    """Fewer evaluations, and each of them cheaper."""
    loaded = load(graph, SDXL)
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    faster = graph.node("StepForecastApply", model=pruned["MODEL"])
    graph.note(
        "**Step Forecast Apply** leaves evaluations of the model out and forecasts their answers. `compute` is the "
        "share that is real: lower is faster and departs further from the full model's picture, 1 changes nothing. "
        "**AT-EDM Apply** makes the real ones cheaper, so the two multiply, in any order.\n\nStep Forecast Apply works "
        "on every model, by itself too: bypass AT-EDM Apply, or take it out where the model is no U-Net.\n\nThe log "
        "says after each run how many evaluations were real and how far forecasts were off.",
        "AT-EDM and forecasts",
    )
    prompts = describe(graph, loaded["CLIP"])
    latent = empty_latent(graph)
    save(graph, sample(graph, faster["MODEL"], prompts, latent), loaded["VAE"])


def image_to_image(graph: Graph) -> None:
    """A picture as the start."""
    loaded = load(graph, SDXL, "1 - Checkpoint and picture")
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    picture = graph.node("LoadImage", image="example.png")
    prompts = describe(graph, loaded["CLIP"], "an oil painting of a landscape, thick brush strokes")
    graph.note(
        "With `denoise` below 1 the run starts part of the way, past the phase in which the schedule spares blocks, "
        "so that more of it is pruned.",
        "AT-EDM and denoise",
    )
    graph.group("3 - Sample")
    scaled = graph.node("ImageScaleToTotalPixels", image=picture["IMAGE"], upscale_method="lanczos", megapixels=1.0)
    latent = graph.node("VAEEncode", pixels=scaled["IMAGE"], vae=loaded["VAE"])
    sampled = sample(graph, pruned["MODEL"], prompts, latent["LATENT"], denoise=0.6)
    save(graph, sampled, loaded["VAE"])


def hires_fix(graph: Graph) -> None:
    """Two passes with one pruned model: attention grows with the square of the size, and so does what it saves."""
    loaded = load(graph, SDXL)
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    graph.note(
        "One **AT-EDM Apply** serves both passes; every run keeps its own account. The larger the picture, the larger "
        "attention's share of the time, and with it what pruning saves.",
        "AT-EDM in two passes",
    )
    prompts = describe(graph, loaded["CLIP"])
    latent = empty_latent(graph)
    first = sample(graph, pruned["MODEL"], prompts, latent, "First pass")
    graph.group("3b - Enlarge and sample again")
    larger = graph.node("LatentUpscaleBy", samples=first, upscale_method="bicubic", scale_by=1.5)
    second = sample(
        graph, pruned["MODEL"], prompts, larger["LATENT"], "Second pass at 1.5 times the size", steps=20, denoise=0.55
    )
    save(graph, second, loaded["VAE"])


def inpainting(graph: Graph) -> None:
    """A part of a picture."""
    loaded = load(graph, SDXL, "1 - Checkpoint and picture")
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    picture = graph.node("LoadImage", "Picture: paint a mask on it", image="example.png")
    prompts = describe(graph, loaded["CLIP"], "a hot air balloon in the sky")
    graph.note(
        "Right-click the picture and choose **Open in MaskEditor** to paint over what is to be drawn anew. Without a "
        "mask the picture comes back as it is.",
        "Mask",
    )
    graph.group("3 - Sample")
    encoded = graph.node("VAEEncode", pixels=picture["IMAGE"], vae=loaded["VAE"])
    soft = graph.node("GrowMask", mask=picture["MASK"], expand=8, tapered_corners=True)
    latent = graph.node("SetLatentNoiseMask", samples=encoded["LATENT"], mask=soft["MASK"])
    sampled = sample(graph, pruned["MODEL"], prompts, latent["LATENT"], denoise=0.9)
    save(graph, sampled, loaded["VAE"])


def lora_and_controlnet(graph: Graph) -> None:
    """Where AT-EDM Apply goes when others change the model too."""
    loaded = load(graph, SDXL)
    lora = graph.node("LoraLoader", model=loaded["MODEL"], clip=loaded["CLIP"], lora_name="your_sdxl_lora.safetensors")
    pruned = graph.node("ATEDMApply", model=lora["MODEL"])
    graph.note(
        "LoRAs come before **AT-EDM Apply**. ControlNet acts on the prompt and needs nothing. Choose your LoRA and "
        "your ControlNet in their loaders.",
        "Order",
    )
    prompts = describe(graph, lora["CLIP"])
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
    latent = empty_latent(graph)
    steered = (controlled["positive"], controlled["negative"])
    sampled = sample(graph, pruned["MODEL"], steered, latent)
    save(graph, sampled, loaded["VAE"])


def few_steps(graph: Graph) -> None:
    """Distilled for few steps, and pruned on top."""
    loaded = load(graph, SDXL)
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
    prompts = describe(graph, loaded["CLIP"])
    latent = empty_latent(graph)
    how: dict[str, Any] = {"steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "sgm_uniform"}
    sampled = sample(graph, pruned["MODEL"], prompts, latent, **how)
    save(graph, sampled, loaded["VAE"])


def with_easycache(graph: Graph) -> None:
    """Two ways of saving that do not know of each other: whole steps, and tokens in the steps that are left."""
    loaded = load(graph, SDXL)
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"])
    cached = graph.node("EasyCache", model=pruned["MODEL"])
    graph.note(
        "**EasyCache** (part of ComfyUI) leaves out whole steps that would change little; AT-EDM prunes those that "
        "are left. Each departs a little from the full picture: with both, lower one of them. The report counts the "
        "steps that ran.",
        "Stacked",
    )
    prompts = describe(graph, loaded["CLIP"])
    latent = empty_latent(graph)
    sampled = sample(graph, cached["MODEL"], prompts, latent)
    report(graph, pruned["MODEL"], save(graph, sampled, loaded["VAE"]))


def sd15_text_to_image(graph: Graph) -> None:
    """The same on SD 1.5, above the size at which attention begins to matter there."""
    loaded = load(graph, SD15)
    pruned = graph.node("ATEDMApply", model=loaded["MODEL"], prune_ratio=0.5)
    graph.note(
        "SD 1.5 has one attention layer per block, where tokens are dropped after its self-attention. Attention is a "
        "smaller part of this model: there is more to save in large pictures than in small ones.",
        "SD 1.5",
    )
    prompts = describe(graph, loaded["CLIP"])
    latent = empty_latent(graph, 512, 768)
    sampled = sample(graph, pruned["MODEL"], prompts, latent, steps=25, cfg=7.0)
    save(graph, sampled, loaded["VAE"])


def compare(graph: Graph) -> None:
    """The same seed in full, with AT-EDM, and with fewer steps that cost as much; how fast, and how near."""
    loaded = load(graph, SDXL)
    off = graph.node("ATEDMApply", "AT-EDM off (prune_ratio 0)", model=loaded["MODEL"], prune_ratio=0.0)
    pruned = graph.node("ATEDMApply", "AT-EDM on", model=loaded["MODEL"])
    prompts = describe(graph, loaded["CLIP"])
    latent = graph.node("EmptyLatentImage", width=1024, height=1024, batch_size=1)
    seed = graph.node("PrimitiveInt", "Seed of all three", value=1)
    graph.group("3 - Sample three times")
    how: dict[str, Any] = {"seed": seed["INT"], "sampler_name": "euler", "scheduler": "normal"}
    whole = sample(graph, off["MODEL"], prompts, latent["LATENT"], "In full", steps=_STEPS, **how)
    fast = sample(graph, pruned["MODEL"], prompts, latent["LATENT"], "With AT-EDM", steps=_STEPS, **how)
    fewer = sample(graph, off["MODEL"], prompts, latent["LATENT"], "Fewer steps", steps=_FEWER_STEPS, **how)
    graph.group("4 - Compare")
    first, second, third = (graph.node("VAEDecode", samples=one, vae=loaded["VAE"]) for one in (whole, fast, fewer))
    graph.node("ImageCompare", "In full | with AT-EDM", wide=480, image_a=first["IMAGE"], image_b=second["IMAGE"])
    graph.node("ImageCompare", "In full | fewer steps", wide=480, image_a=first["IMAGE"], image_b=third["IMAGE"])
    graph.group("5 - In numbers")
    graph.node(
        "ATEDMReport",
        model=pruned["MODEL"],
        result=second["IMAGE"],
        reference=first["IMAGE"],
        alternative=third["IMAGE"],
        wide=680,
    )
    graph.note(
        f"**How near**: PSNR and SSIM from the picture in full, of AT-EDM's and of the one from {_FEWER_STEPS} steps, "
        f"which cost about as much as AT-EDM's {_STEPS}.\n\n**How fast**: queue three times, with another seed each. "
        "Until then the report says what FLOPs predict: one run beside one run tells little.",
        "How to read it",
        680,
    )


def without_checkpoint(graph: Graph) -> None:
    """The bundled model, in full and pruned, beside each other."""
    graph.group("1 - The model that comes with AT-EDM")
    loaded = graph.node("ATEDMDemoLoader")
    off = graph.node("ATEDMApply", "AT-EDM off (prune_ratio 0)", model=loaded["MODEL"], prune_ratio=0.0)
    pruned = graph.node("ATEDMApply", "AT-EDM on", model=loaded["MODEL"])
    prompts = describe(graph, loaded["CLIP"], "a large red heart in the center on a yellow background", "")
    latent = graph.node("EmptyLatentImage", width=256, height=256, batch_size=1)
    seed = graph.node("PrimitiveInt", "Seed of both", value=1)
    graph.group("3 - Sample twice")
    how: dict[str, Any] = {"seed": seed["INT"], "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}
    whole = sample(graph, off["MODEL"], prompts, latent["LATENT"], "In full", steps=_STEPS, **how)
    fast = sample(graph, pruned["MODEL"], prompts, latent["LATENT"], "With AT-EDM", steps=_STEPS, **how)
    graph.group("4 - Compare")
    first, second = (graph.node("VAEDecode", samples=one, vae=loaded["VAE"]) for one in (whole, fast))
    graph.node("PreviewImage", "In full", images=first["IMAGE"])
    graph.node("PreviewImage", "With AT-EDM", images=second["IMAGE"])
    graph.group("5 - In numbers")
    graph.node("ATEDMReport", model=pruned["MODEL"], result=second["IMAGE"], reference=first["IMAGE"], wide=680)


WORKFLOWS: dict[str, Builder] = {
    "AT-EDM Compare with and without": compare,
    "AT-EDM SDXL text to image": text_to_image,
    "AT-EDM SDXL image to image": image_to_image,
    "AT-EDM SDXL hires fix": hires_fix,
    "AT-EDM SDXL inpainting": inpainting,
    "AT-EDM SDXL with LoRA and ControlNet": lora_and_controlnet,
    "AT-EDM SDXL few steps (Lightning or LCM)": few_steps,
    "AT-EDM SDXL with EasyCache": with_easycache,
    "AT-EDM SDXL with Step Forecast": with_forecast,
    "AT-EDM SD 1.5 text to image": sd15_text_to_image,
    "CAT Pruning SD3 text to image": sd3_text_to_image,
    "CAT Pruning PixArt-Sigma text to image": pixart_sigma_text_to_image,
}
DEMO_WORKFLOWS: dict[str, Builder] = {"AT-EDM without a checkpoint": without_checkpoint}
"""Those for the bundled model, beside its loader."""
WHEN = {
    "AT-EDM without a checkpoint": "To try AT-EDM within a minute, on the small model that comes with it: one coloured "
    "shape on a background, 256 x 256.",
    "AT-EDM Compare with and without": "To see for yourself how much faster it is and how far the picture moves, on "
    "your model and your machine, before you use it.",
    "AT-EDM SDXL text to image": "For SDXL with 20 steps or fewer. With more steps, forecasts save more: take *AT-EDM "
    "SDXL with Step Forecast*.",
    "AT-EDM SDXL image to image": "To redraw a picture with SDXL.",
    "AT-EDM SDXL hires fix": "For large pictures, where pruning saves most.",
    "AT-EDM SDXL inpainting": "To redraw a part of a picture with SDXL.",
    "AT-EDM SDXL with LoRA and ControlNet": "When other nodes change the model too: where AT-EDM Apply goes.",
    "AT-EDM SDXL few steps (Lightning or LCM)": "For models distilled to 4 to 8 steps. Nothing else saves anything "
    "there, and there is not much to save.",
    "AT-EDM SDXL with EasyCache": "When you use EasyCache already. Step Forecast does the same job and checks itself.",
    "AT-EDM SDXL with Step Forecast": "For SDXL with 20 steps or more: the most that can be saved with the same scene.",
    "AT-EDM SD 1.5 text to image": "For SD 1.5 from 768 pixels on; below, there is little to save.",
    "CAT Pruning SD3 text to image": "For SD3 and SD3.5 with 20 steps or more. With fewer, most of the run is warm-up.",
    "CAT Pruning PixArt-Sigma text to image": "For PixArt with 20 steps or more. With fewer, most of the run is "
    "warm-up.",
}
"""When to use which: it stands first in each."""


def build(definitions: Definitions, workflows: Mapping[str, Builder] = WORKFLOWS) -> dict[str, str]:
    """Example workflows by name, as the text of their files."""
    built = {}
    for name, builder in workflows.items():
        graph = Graph(definitions)
        builder(graph)
        graph.introduce(WHEN[name])
        built[name] = json.dumps(graph.saved(name), indent=1) + "\n"
    return built


def main() -> None:
    """Write the files."""
    host = current_host()
    if not (host.comfyui / "main.py").is_file():
        raise DevError(f"No ComfyUI in {host.comfyui}. Run `python dev.py host --no-start` first.")
    link_packs(host.base, demo=True)
    with Server(host, LOGS / "workflows-server.log", cpu=True) as server:
        definitions = server.get("/object_info")
    for folder, workflows in ((FOLDER, WORKFLOWS), (DEMO_FOLDER, DEMO_WORKFLOWS)):
        folder.mkdir(exist_ok=True)
        for name, text in build(definitions, workflows).items():
            (folder / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
