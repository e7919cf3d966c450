"""What drawing pictures in this process takes, whichever model draws them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import host, pack
from .captions import Caption
from .cases import Sampling

Conditioning = list[list[Any]]


@dataclass(frozen=True)
class Trajectory:
    """Every step of a run: noise levels `[T]`, latents `[T, B, C, h, w]` and predictions of the clean one."""

    sigmas: np.ndarray
    latents: np.ndarray
    predictions: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """A batch of pictures.

    Attributes:
        latents: `[B, C, h, w]` float32, final.
        pictures: `[B, H, W, 3]` uint8.
        info: per picture: `flops` on the demo model, `sdxl_flops` of the same decisions on SDXL at 1024 px (absent for
            peers that change what a call costs), `calls` of the model, `seconds` of sampling.
        trajectory: of an unpruned run that was recorded, or of a replay.
    """

    latents: np.ndarray
    pictures: np.ndarray
    info: dict[str, float]
    trajectory: Trajectory | None = None


def enter_quietly(threads: int) -> None:
    """ComfyUI on this many threads of the CPU, without progress bars and without a line for every run, of thousands."""
    torch.set_num_threads(threads)
    host.enter(torch.device("cpu"))
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    logging.getLogger(pack.__name__).setLevel(logging.ERROR)
    logging.getLogger().setLevel(logging.WARNING)


@contextmanager
def inputs_noted(layer: nn.Module, note: Callable[[Tensor], None]) -> Iterator[None]:
    """Hands `note` the first input of every call of a layer."""
    hook = layer.register_forward_pre_hook(lambda module, given: note(given[0]))
    try:
        yield
    finally:
        hook.remove()


SDXL_LEVELS = (0.0292, 14.61)
"""Least and most noise of SDXL."""


def sigmas_of(model: Any, sampling: Sampling) -> Tensor:
    """The noise levels of a run, `[steps + 1]`; a schedule "of SDXL" goes over its levels instead of the model's."""
    import comfy.samplers

    name, of, _ = sampling.scheduler.partition(" of SDXL")
    if of:
        from comfy.k_diffusion import sampling as of_host

        levels: Tensor = getattr(of_host, f"get_sigmas_{name}")(sampling.steps, *SDXL_LEVELS)
        return levels
    return comfy.samplers.KSampler(
        model, sampling.steps, torch.device("cpu"), sampling.sampler, sampling.scheduler
    ).sigmas


def noise_of(captions: Sequence[Caption], edge: int) -> Tensor:
    """`[B, 4, edge, edge]`: each picture's own, so that it does not depend on its batch."""
    import comfy.sample

    empty = torch.zeros(1, 4, edge, edge)
    return torch.cat([comfy.sample.prepare_noise(empty, one.seed) for one in captions])


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Pictures `[B, H, W, 3]` uint8 of latents `[B, C, h, w]`."""
    return (vae.decode(latents).clamp(0, 1) * 255).round().byte()


@dataclass
class Texts:
    """Encodes texts, each of them once.

    Attributes:
        clip: a ComfyUI CLIP.
        tokens: as many of a text's tokens reach the model; all, if `None`.
    """

    clip: Any
    tokens: int | None = None
    _encoded: dict[str, Any] = field(default_factory=dict)

    def conditioning(self, texts: Sequence[str]) -> Conditioning:
        """One conditioning whose rows are the texts: the host hands each picture of a batch its own."""
        for text in texts:
            if text not in self._encoded:
                self._encoded[text] = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))[0]
        found = [self._encoded[text] for text in texts]
        pooled = torch.cat([extra["pooled_output"] for _, extra in found])
        return [[torch.cat([context[:, : self.tokens] for context, _ in found]), {"pooled_output": pooled}]]
