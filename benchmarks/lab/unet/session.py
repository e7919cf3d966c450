"""A model of the lab in ComfyUI in this process, and pictures from it: a batch of captions at a time."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ... import peers
from ...pack.atedm_core.unet.ranking import rank_tokens
from ..captions import Caption, Subject
from ..cases import Peer, Sampling
from ..drawing import Conditioning, Drawn, Texts, Trajectory, decoded, enter_quietly, inputs_noted, noise_of, sigmas_of
from .cases import Case
from .controls import ranking
from .flops import Tape, demo_flops, sdxl_flops, sdxl_flops_with_tome
from .half import RoundedFloat16

CACHES = ("easy_cache", "lazy_cache")
"""Peers that leave calls out and change nothing within one: their FLOPs follow from the calls that were made."""


@dataclass
class Watching:
    """The pack's `RunObserver`: feeds a tape, and whoever else wants the events."""

    tape: Tape
    also: Callable[[Any], None] | None = None

    def pruned(self, event: Any) -> None:
        self.tape.on_pruned(event)
        if self.also is not None:
            self.also(event)

    def finished(self, run: Any, steps: int) -> None:
        self.tape.on_finished(run, steps)


@dataclass
class Session:
    """The model of a subject, loaded.

    Attributes:
        models: by the name of the dtype that it is computed in.
    """

    models: dict[str, Any]
    texts: Texts
    vae: Any
    subject: Subject = "shapes"

    @staticmethod
    def open(threads: int = 1, subject: Subject = "shapes") -> Session:
        """Load ComfyUI, this pack and the model that draws a subject."""
        enter_quietly(threads)
        model, clip, vae = _load(subject)
        return Session({"float32": model}, Texts(clip), vae, subject)

    @property
    def model(self) -> Any:
        """In float32, which the lab draws in unless a case says otherwise."""
        return self.models["float32"]

    def model_in(self, dtype: str) -> Any:
        """The same model computed in another dtype, loaded where it has not been asked for before."""
        if dtype not in self.models:
            self.models[dtype] = _load(self.subject, getattr(torch, dtype))[0]
        return self.models[dtype]

    def progress(self, sampling: Sampling, landmark: float = 0.3) -> list[float]:
        """Progress at each step, as the pack sees it."""
        from ...pack.patches.host.progress import percent_to_sigma_on_cpu, progress_of

        to_sigma = percent_to_sigma_on_cpu(self.model.get_model_object("model_sampling"))
        return [progress_of(sigma, to_sigma, landmark) for sigma in sigmas_of(self.model, sampling).tolist()[:-1]]

    def draw(
        self,
        case: Case,
        captions: tuple[Caption, ...],
        *,
        record: bool = False,
        shown: Trajectory | None = None,
        watch: Callable[[Any], None] | None = None,
        timed: bool = False,
    ) -> Drawn:
        """Pictures of a case.

        Args:
            case: what to run.
            captions: one picture each.
            record: keep every step of the run (euler and its like, that call back at the latent they predict from).
            shown: for a replay, the latents to predict from.
            watch: called with the pack's event for every block that was pruned.
            timed: leave out PyTorch's counter of FLOPs, which some peers need and which takes time.
        """
        sampling, tape = case.sampling, Tape()
        edge, model = sampling.size // 8, self.model_in(sampling.dtype)
        sigmas = sigmas_of(self.model, sampling)
        noise = noise_of(captions, edge)
        steps: list[tuple[Tensor, Tensor]] = []
        with torch.inference_mode():  # before anything is counted
            positive, negative = (self.texts.conditioning(texts) for texts in ([one.text for one in captions], [""]))
        with ExitStack() as around, torch.inference_mode():
            # every pass through the U-Net; caches that answer in its place are not seen
            first = model.model.diffusion_model.time_embed
            around.enter_context(inputs_noted(first, lambda given: tape.calls.append(given.shape[0])))
            counter = _flop_counter() if _needs_counting(case.peer) and not timed else None
            if counter is not None:
                around.enter_context(counter)
            if sampling.dtype == "float16":
                around.enter_context(RoundedFloat16())
            started = time.perf_counter()
            latents = self._sample(
                self._patched(model, case, Watching(tape, watch)),
                noise,
                sampling,
                _replay(shown, steps) if shown is not None else self._sampler(sampling, noise, captions),
                sigmas,
                (positive, negative),
                (lambda i, denoised, x, total: steps.append((x.clone(), denoised.clone()))) if record else None,
            )
            seconds = time.perf_counter() - started
        with torch.inference_mode():
            latents = latents.float()
            pictures = decoded(self.vae, latents).numpy()
        info = self._info(case, tape, counter, len(captions), seconds)
        trajectory = _trajectory(sigmas, steps) if steps else None
        return Drawn(latents.float().numpy(), pictures, info, trajectory)

    def _info(
        self, case: Case, tape: Tape, counter: FlopCounterMode | None, pictures: int, seconds: float
    ) -> dict[str, float]:
        latent = (case.sampling.size // 8,) * 2
        flops = demo_flops(tape, self.structure(), latent) if counter is None else counter.get_total_flops()
        conditions = 1 if case.sampling.cfg == 1 else 2
        info = {"flops": flops, "calls": sum(tape.calls) / conditions, "seconds": seconds}
        if counter is None:
            info["sdxl_flops"] = sdxl_flops(tape, case.pruning)
        elif case.peer is not None and case.peer.name == "tome":
            info["sdxl_flops"] = sdxl_flops_with_tome(sum(tape.calls), dict(case.peer.arguments)["ratio"])
        return {name: value / pictures for name, value in info.items()}

    def structure(self) -> Any:
        """The demo model as costs see it."""
        from ...pack.patches.unet.structure import describe_unet, supported_unet

        return describe_unet(supported_unet(self.model))

    def _patched(self, model: Any, case: Case, observer: Watching) -> Any:
        from ...pack.patches.unet.apply import apply_atedm
        from ...pack.patches.unet.run import OBSERVERS_KEY

        if case.pruning is not None:
            rank = ranking(case.pruning.control, rank_tokens)
            model = apply_atedm(model, case.pruning.schedule, case.pruning.settings, rank=rank)
        if case.peer is not None:
            model = getattr(peers, case.peer.name)(model, **dict(case.peer.arguments))
        model = model.clone()
        options = model.model_options.setdefault("transformer_options", {})
        options[OBSERVERS_KEY] = [observer]
        return model

    def _sampler(self, sampling: Sampling, noise: Tensor, captions: tuple[Caption, ...]) -> Any:
        """The host's sampler. Its noise, where it adds any, is one Brownian path per picture for all step counts.

        So a run of fewer steps is driven by the same noise, as far as it can be: the strongest form of that control.
        """
        import comfy.samplers
        from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler

        sampler = comfy.samplers.sampler_object(sampling.sampler)
        if "noise_sampler" in inspect.signature(sampler.sampler_function).parameters:
            limits = self.model.get_model_object("model_sampling")
            low, high = float(limits.sigma_min) / 2, float(limits.sigma_max)
            seeds = [one.seed for one in captions]
            sampler.extra_options = {
                **sampler.extra_options,
                "noise_sampler": BrownianTreeNoiseSampler(noise, low, high, seed=seeds, cpu=True),
            }
        return sampler

    def _sample(
        self,
        model: Any,
        noise: Tensor,
        sampling: Sampling,
        sampler: Any,
        sigmas: Tensor,
        conditions: tuple[Conditioning, Conditioning],
        callback: Any,
    ) -> Tensor:
        import comfy.sample

        torch.manual_seed(0)  # HyperTile draws from it
        return comfy.sample.sample_custom(
            model,
            noise,
            sampling.cfg,
            sampler,
            sigmas,
            *conditions,
            torch.zeros_like(noise),
            callback=callback,
            disable_pbar=True,
            seed=0,
        )


def _load(subject: Subject, dtype: torch.dtype | None = None) -> Any:
    from demo import store
    from demo.model import load
    from demo.photographs.store import FILE

    return load(FILE if subject == "photographs" else store.DEFAULT_FILE, dtype)


def _needs_counting(peer: Peer | None) -> bool:
    return peer is not None and peer.name not in CACHES


def _flop_counter() -> FlopCounterMode:
    """PyTorch's own does not know the CPU's fused attention."""

    def attention(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
        return sdpa_flop_count(query, key, value)

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={fused: attention})


def _replay(shown: Trajectory, steps: list[tuple[Tensor, Tensor]]) -> Any:
    """A sampler that predicts from the latents of another run, step by step."""
    import comfy.samplers

    def run(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any) -> Tensor:
        for sigma, latent in zip(sigmas[:-1], torch.from_numpy(shown.latents), strict=True):
            steps.append((latent, model(latent, sigma * torch.ones(len(latent)), **extra_args)))
        return steps[-1][1]

    return comfy.samplers.KSAMPLER(run)


def _trajectory(sigmas: Tensor, steps: list[tuple[Tensor, Tensor]]) -> Trajectory:
    latents, predictions = (torch.stack([step[part] for step in steps]).numpy() for part in (0, 1))
    return Trajectory(sigmas[:-1].numpy(), latents, predictions)
