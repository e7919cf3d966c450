"""The example workflows for diffusion transformers, with CAT Pruning."""

from __future__ import annotations

from typing import Any

from .graph import Graph
from .workflow_parts import describe, empty_latent, load, report, sample, save

SD3 = "sd3_medium_incl_clips_t5xxlfp8.safetensors"
PIXART = "PixArt-Sigma-XL-2-1024-MS.safetensors"
T5 = "t5xxl_fp8_e4m3fn.safetensors"
SDXL_VAE = "sdxl_vae.safetensors"
_STEPS = 28
_PREFIX = "CAT-Pruning"


def sd3_text_to_image(graph: Graph) -> None:
    """SD3 medium from one file, as its makers offer it."""
    loaded = load(graph, SD3)
    shifted = graph.node("ModelSamplingSD3", model=loaded["MODEL"], shift=3.0)
    pruned = graph.node("CATPruningApply", model=shifted["MODEL"])
    graph.note(
        "**CAT Pruning Apply** goes between the checkpoint (and its LoRAs) and the sampler. The first steps, `warmup` "
        "of them, compute the whole picture; after that each step computes `keep_ratio` of its tokens. Lower is "
        "faster and departs further from the full model's picture, 1 changes nothing.\n\nThe longer the run, the more "
        "there is to save. The log says after each run what was.",
        "CAT Pruning",
    )
    prompts = describe(graph, loaded["CLIP"])
    latent = empty_latent(graph, kind="EmptySD3LatentImage")
    how: dict[str, Any] = {"steps": _STEPS, "cfg": 4.5, "sampler_name": "euler", "scheduler": "sgm_uniform"}
    picture = save(graph, sample(graph, pruned["MODEL"], prompts, latent, **how), loaded["VAE"], _PREFIX)
    report(graph, pruned["MODEL"], picture)


def pixart_sigma_text_to_image(graph: Graph) -> None:
    """PixArt-Sigma from its parts: the transformer, the T5 and SDXL's VAE."""
    graph.group("1 - Choose the model's parts")
    model = graph.node("UNETLoader", "PixArt-Sigma", unet_name=PIXART)
    clip = graph.node("CLIPLoader", "T5 text encoder", clip_name=T5, type="pixart")
    vae = graph.node("VAELoader", "SDXL's VAE", vae_name=SDXL_VAE)
    pruned = graph.node("CATPruningApply", model=model["MODEL"])
    graph.note(
        "PixArt-Sigma's transformer goes to `models/diffusion_models` under the name in the loader, the T5 that SD3 "
        "and Flux use to `models/text_encoders`, and SDXL's VAE to `models/vae`.\n\n**CAT Pruning Apply** keeps keys "
        "and values of all tokens in memory while it samples, about 1 GiB at this size. Where that does not fit, the "
        "run goes on unpruned, and the log says so.",
        "Files and memory",
    )
    prompts = describe(graph, clip["CLIP"])
    latent = empty_latent(graph)
    how: dict[str, Any] = {"steps": _STEPS, "cfg": 4.5, "scheduler": "normal"}
    picture = save(graph, sample(graph, pruned["MODEL"], prompts, latent, **how), vae["VAE"], _PREFIX)
    report(graph, pruned["MODEL"], picture)
