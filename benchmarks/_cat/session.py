"""The demo's transformer in ComfyUI in this process, and pictures from it: a batch of captions at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atedm_core.transformer_cost import TransformerStructure, transformer_flops

from .. import _host, _peers
from .._fidelity.captions import Caption
from .._fidelity.cases import Sampling
from .._fidelity.session import Conditioning, Drawn
from .cases import CATCase, CATPruning
from .controls import in_place

PATCH = 2
VECTOR_WIDTH = 2048
"""Of the text's summary, in the closed form of an SD3's cost."""


@dataclass
class Session:
    """The transformer with the demo model's CLIP and VAE, loaded."""

    model: Any
    clip: Any
    vae: Any
    _encoded: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def open(file: Path | None = None, threads: int = 1) -> Session:
        """Load ComfyUI, this pack and the models; `file` is another transformer than the bundled one."""
        torch.set_num_threads(threads)
        _host.enter(torch.device("cpu"))
        import comfy.utils

        from demo import model, store, transformer

        comfy.utils.set_progress_bar_enabled(False)
        # a line for every run, of thousands
        logging.getLogger(_host.PACK_NAME).setLevel(logging.ERROR)
        logging.getLogger().setLevel(logging.WARNING)
        _, clip, vae = model.load(store.DEFAULT_FILE)
        return Session(transformer.load(file) if file else transformer.load(), clip, vae)

    def draw(self, case: CATCase, captions: tuple[Caption, ...], **_: Any) -> Drawn:
        """Pictures of a case. `info` has per picture: `flops`, `calls` of the model, `seconds` of sampling."""
        edge = case.sampling.size // 8
        sigmas = self._sigmas(case.sampling)
        if case.held is not None:
            sigmas = torch.cat([sigmas[: case.held], sigmas[-1:]])  # one long step from there is the same
        noise = torch.cat([_noise(one.seed, edge) for one in captions])
        computed: list[tuple[int, int]] = []
        with ExitStack() as around, torch.inference_mode():
            positive, negative = self._conditioning([one.text for one in captions]), self._conditioning([""])
            around.enter_context(in_place(case.pruning.control if case.pruning else None))
            around.enter_context(self._counted(computed))
            started = time.perf_counter()
            latents = self._sample(self._patched(case), noise, case.sampling, sigmas, positive, negative)
            seconds = time.perf_counter() - started
            pictures = (self.vae.decode(latents).clamp(0, 1) * 255).round().byte().numpy()
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
        cost = _host.pack("atedm_core.transformer_cost")
        full = cost.sd3_structure(
            inner.hidden_size, len(inner.joint_blocks), 0, inner.context_embedder.in_features, inner.in_channels
        )
        told = inner.y_embedder.mlp[0].in_features
        fixed = full.fixed_macs - (VECTOR_WIDTH - told) * inner.hidden_size
        return TransformerStructure(**asdict(replace(full, fixed_macs=fixed)))

    def _patched(self, case: CATCase) -> Any:
        if case.pruning is not None:
            return _pruned(self.model, case.pruning)
        if case.peer is not None:
            return getattr(_peers, case.peer.name)(self.model, **dict(case.peer.arguments))
        return self.model

    @contextmanager
    def _counted(self, computed: list[tuple[int, int]]) -> Iterator[None]:
        """Notes of every call how many samples and how many image tokens each reached the last layer."""
        last = self.model.model.diffusion_model.final_layer
        hook = last.register_forward_pre_hook(lambda module, given: computed.append(tuple(given[0].shape[:2])))
        try:
            yield
        finally:
            hook.remove()

    def _sigmas(self, sampling: Sampling) -> Tensor:
        import comfy.samplers

        return comfy.samplers.KSampler(
            self.model, sampling.steps, torch.device("cpu"), sampling.sampler, sampling.scheduler
        ).sigmas

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

    def _conditioning(self, texts: list[str]) -> Conditioning:
        """One conditioning whose rows are the texts, cut to as many tokens as the transformer was trained with."""
        from demo.transformer import TEXT_TOKENS

        for text in texts:
            if text not in self._encoded:
                self._encoded[text] = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))[0]
        found = [self._encoded[text] for text in texts]
        pooled = torch.cat([extra["pooled_output"] for _, extra in found])
        return [[torch.cat([context[:, :TEXT_TOKENS] for context, _ in found]), {"pooled_output": pooled}]]


def _pruned(model: Any, pruning: CATPruning) -> Any:
    # the pack under its own name has classes of its own
    selection = _host.pack("atedm_core.cat").CATSelection(**asdict(pruning.selection))
    schedule = _host.pack("atedm_core.cat_schedule").CATSchedule(**asdict(pruning.schedule))
    return _host.pack("patches.cat_apply").apply_cat(model, selection, schedule)


def _noise(seed: int, edge: int) -> Tensor:
    import comfy.sample

    return comfy.sample.prepare_noise(torch.zeros(1, 4, edge, edge), seed)
