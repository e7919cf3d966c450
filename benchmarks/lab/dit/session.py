"""The demo's transformer in ComfyUI in this process, and pictures from it: a batch of captions at a time."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import peers
from ...pack.atedm_core.dit.expected_error import ExpectedErrorSelector
from ...pack.atedm_core.dit.flops import TransformerStructure, transformer_flops
from ...pack.atedm_core.dit.selection import TokenSelector
from ...pack.atedm_core.dit.structures import sd3_structure
from ...pack.atedm_core.forecast_plan import ForecastSettings
from ..captions import Caption, Subject
from ..cases import Sampling
from ..drawing import Conditioning, Drawn, Texts, decoded, enter_quietly, inputs_noted, noise_of, sigmas_of
from .cases import CATCase
from .controls import selector

PATCH = 2
VECTOR_WIDTH = 2048
"""Of the text's summary, in the closed form of an SD3's cost."""


def file_of(subject: Subject) -> Path:
    """The bundled transformer that draws a subject."""
    from demo.transformer_store import DEFAULT_FILE, PHOTOGRAPHS

    return PHOTOGRAPHS if subject == "photographs" else DEFAULT_FILE


@dataclass
class Session:
    """A subject's transformer with the CLIP and VAE of the U-Net that draws the same, loaded."""

    model: Any
    texts: Texts
    vae: Any

    @staticmethod
    def open(file: Path | None = None, threads: int = 1, subject: Subject = "shapes") -> Session:
        """Load ComfyUI, this pack and the models of a subject; `file` is another transformer than the bundled one."""
        enter_quietly(threads)
        from demo import model, store, transformer
        from demo.photographs.store import FILE

        _, clip, vae = model.load(FILE if subject == "photographs" else store.DEFAULT_FILE)
        # cut to as many tokens as it was trained with
        texts = Texts(clip, transformer.TEXT_TOKENS)
        return Session(transformer.load(file or file_of(subject)), texts, vae)

    def draw(self, case: CATCase, captions: tuple[Caption, ...], **_: Any) -> Drawn:
        """Pictures of a case. `info` has per picture: `flops`, `calls` of the model, `seconds` of sampling."""
        edge = case.sampling.size // 8
        sigmas = sigmas_of(self.model, case.sampling)
        if case.held is not None:
            sigmas = torch.cat([sigmas[: case.held], sigmas[-1:]])  # one long step from there is the same
        noise = noise_of(captions, edge)
        computed: list[tuple[int, int]] = []
        with ExitStack() as around, torch.inference_mode():
            positive, negative = (self.texts.conditioning(texts) for texts in ([one.text for one in captions], [""]))
            # how many samples and how many image tokens each reached the last layer
            last = self.model.model.diffusion_model.final_layer
            around.enter_context(inputs_noted(last, lambda given: computed.append((given.shape[0], given.shape[1]))))
            started = time.perf_counter()
            latents = self._sample(self._patched(case), noise, case.sampling, sigmas, positive, negative)
            seconds = time.perf_counter() - started
            pictures = decoded(self.vae, latents).numpy()
        structure, tokens = self.structure(), (edge // PATCH) ** 2
        text = positive[0][0].shape[1]
        flops = sum(rows * transformer_flops(structure, tokens, text, kept) for rows, kept in computed)
        conditions = 1 if case.sampling.cfg == 1 else 2
        info = {"flops": flops, "calls": sum(rows for rows, _ in computed) / conditions, "seconds": seconds}
        per_picture = {name: value / len(captions) for name, value in info.items()}
        return Drawn(latents.float().numpy(), pictures, per_picture)

    def structure(self) -> TransformerStructure:
        """The transformer as costs see it; the pack's own description counts SD3's channels and summary."""
        inner = self.model.model.diffusion_model
        full = sd3_structure(
            inner.hidden_size, len(inner.joint_blocks), 0, inner.context_embedder.in_features, inner.in_channels
        )
        told = inner.y_embedder.mlp[0].in_features
        fixed = full.fixed_macs - (VECTOR_WIDTH - told) * inner.hidden_size
        return replace(full, fixed_macs=fixed)

    def _patched(self, case: CATCase) -> Any:
        from ...pack.patches.dit.apply import apply_cat
        from ...pack.patches.steps.apply import apply_forecast
        from ...pack.patches.steps.auto import apply_auto

        model, chosen = self.model, case.pruning
        if chosen is not None:
            base = ExpectedErrorSelector if chosen.selection.choose_by == "expected error" else TokenSelector
            model = apply_cat(model, chosen.selection, chosen.schedule, select=selector(chosen.control, base))
        if case.compute is not None:
            model = apply_forecast(model, ForecastSettings(case.compute))
        if case.speed_up is not None:
            model = apply_auto(model, case.speed_up)
        if case.peer is not None:
            model = getattr(peers, case.peer.name)(model, **dict(case.peer.arguments))
        return model

    def _sample(
        self,
        model: Any,
        noise: Tensor,
        sampling: Sampling,
        sigmas: Tensor,
        positive: Conditioning,
        negative: Conditioning,
    ) -> Tensor:
        import comfy.sample
        import comfy.samplers

        sampler = comfy.samplers.sampler_object(sampling.sampler)
        empty = torch.zeros_like(noise)
        return comfy.sample.sample_custom(
            model, noise, sampling.cfg, sampler, sigmas, positive, negative, empty, disable_pbar=True, seed=0
        )
