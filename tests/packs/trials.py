"""How nodes of other packs are put on a tiny random model. Their code comes from elsewhere and never lies here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Given:
    """What goes into a sampler; a pack's nodes change some of it.

    Attributes:
        kind: of model, by its name in `benchmarks.random_models` or `benchmarks.random_transformers`.
        model: a MODEL.
        positive: CONDITIONING.
        negative: CONDITIONING.
        latent: LATENT.
        sampler: a node that samples in place of KSampler, and inputs of its own.
    """

    kind: str
    model: Any
    positive: Any
    negative: Any
    latent: Any
    sampler: tuple[str, dict[str, Any]] = ("KSampler", {})


Call = Callable[..., Any]
Apply = Callable[[Call, Given], Given]


@dataclass(frozen=True)
class Trial:
    """One way to use a pack, on some kinds of models."""

    name: str
    kinds: tuple[str, ...]
    apply: Apply


UNETS = ("sdxl", "sd15")


def patched(node_id: str, **inputs: Any) -> Apply:
    """A node that only takes a model and gives one."""

    def apply(call: Call, given: Given) -> Given:
        return replace(given, model=call(node_id, model=given.model, **inputs)[0])

    return apply


def simple(node_id: str, kinds: tuple[str, ...] = UNETS, **inputs: Any) -> Trial:
    """A trial of a node that only takes a model and gives one."""
    return Trial(node_id, kinds, patched(node_id, **inputs))


def pictures(given: Given, count: int) -> dict[str, Any]:
    """The latent with other pictures beside it."""
    return {"samples": given.latent["samples"].repeat(count, 1, 1, 1)}


def image_prompt(call: Call, given: Given) -> Given:
    """IPAdapterEmbeds with an adapter of random weights for every cross-attention that the pack knows."""
    import torch

    generator = torch.Generator().manual_seed(4)

    def weights(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    embedding, extra_tokens = 32, 4
    context = given.positive[0][0].shape[-1]
    adapter = {}
    for number, width in enumerate(_cross_attention_widths(given)):
        for part in ("k", "v"):
            adapter[f"{2 * number + 1}.to_{part}_ip.weight"] = weights(width, context)
    project = {
        "proj.weight": weights(extra_tokens * context, embedding),
        "proj.bias": torch.zeros(extra_tokens * context),
        "norm.weight": torch.ones(context),
        "norm.bias": torch.zeros(context),
    }
    model = call(
        "IPAdapterEmbeds",
        model=given.model,
        ipadapter={"image_proj": project, "ip_adapter": adapter},
        pos_embed=weights(1, embedding) * embedding**0.5,
        neg_embed=torch.zeros(1, embedding),
        weight=1.0,
        weight_type="linear",
        start_at=0.0,
        end_at=1.0,
        embeds_scaling="V only",
    )[0]
    return replace(given, model=model)


def _cross_attention_widths(given: Given) -> list[int]:
    """Channels in the order in which the pack numbers a model's cross-attentions, those that a tiny one lacks too."""
    unet = given.model.model.diffusion_model

    def width(part: str, block: int) -> int:
        blocks = {"input": unet.input_blocks, "output": unet.output_blocks}
        layers = blocks[part][block] if part in blocks else unet.middle_block
        return int(layers[1].transformer_blocks[0].attn2.to_q.weight.shape[0])

    if given.kind == "sd15":
        places = [*(("input", n) for n in (1, 2, 4, 5, 7, 8)), *(("output", n) for n in range(3, 12)), ("middle", 1)]
        return [width(*place) for place in places]
    many = 10  # layers of a block that is deep in SDXL
    inputs = [width("input", block) for block in (4, 5, 7, 8) for _ in range(2 if block in (4, 5) else many)]
    outputs = [width("output", block) for block in range(6) for _ in range(2 if block in (3, 4, 5) else many)]
    return [*inputs, *outputs, *([width("middle", 1)] * many)]


def regions(call: Call, given: Given) -> Given:
    """A prompt for each half of the picture, in cross-attention."""
    import torch

    height, width = given.latent["samples"].shape[-2:]
    left = torch.zeros(height, width)
    left[:, : width // 2] = 1.0
    halves = [
        [text.roll(shift, 1), {**more, "mask": mask[None], "mask_strength": 1.0}]
        for shift, mask in ((0, left), (1, 1.0 - left))
        for text, more in given.positive
    ]
    model, positive, negative = call(
        "Attention couple", model=given.model, positive=halves, negative=given.negative, mode="Attention"
    )
    return replace(given, model=model, positive=positive, negative=negative)


def context_windows(call: Call, given: Given) -> Given:
    """Frames in overlapping windows, without a motion model."""
    options = call("ADE_StandardStaticContextOptions", context_length=4, context_overlap=2)[0]
    model = call("ADE_UseEvolvedSampling", model=given.model, beta_schedule="use existing", context_options=options)[0]
    return replace(given, model=model, latent=pictures(given, 6))


def reference(kind: str) -> Apply:
    """A reference picture whose states are read or mixed in."""

    def apply(call: Call, given: Given) -> Given:
        import torch

        from benchmarks import random_models

        height, width = given.latent["samples"].shape[-2:]
        picture = torch.rand(1, 8 * height, 8 * width, 3, generator=torch.Generator().manual_seed(8))
        net = call("ACN_ReferenceControlNet", reference_type=kind, style_fidelity=0.5, ref_weight=1.0)[0]
        hint = call("ACN_ReferencePreprocessor", image=picture, vae=random_models.vae(), latent_size=given.latent)[0]
        applied = {"strength": 0.8, "start_percent": 0.0, "end_percent": 1.0}
        changed = call(
            "ACN_AdvancedControlNetApply_v2",
            positive=given.positive,
            negative=given.negative,
            control_net=net,
            image=hint,
            **applied,
        )
        return replace(given, positive=changed[0], negative=changed[1])

    return apply


def own_sampler(node_id: str, **inputs: Any) -> Apply:
    """A node of the pack's that samples in place of KSampler."""
    return lambda call, given: replace(given, sampler=(node_id, {**inputs, "nag_negative": given.negative}))
