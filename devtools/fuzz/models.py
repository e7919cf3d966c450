"""Tiny models of every family that the pack knows, their conditions and their latents."""

from __future__ import annotations

import atexit
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .drawing import Case, Condition


@dataclass(frozen=True)
class Family:
    """Which of the benchmarks' models it is, and what it may be given.

    Attributes:
        unet: whether it is a U-Net.
        lengths: of prompts, in tokens.
        frames: batch that it needs, if it needs one.
        cells: least and most latent cells in each direction.
        multiple: of which they are.
        share: how often it is drawn, compared with others; a slow one less.
        size: what its builder is given; the tests' depths say no more than shallower ones and take longer.
    """

    unet: bool
    lengths: tuple[int, ...]
    frames: int | None = None
    cells: tuple[int, int] = (1, 40)
    multiple: int = 1
    share: int = 4
    size: dict[str, Any] = field(default_factory=dict)


UNETS = ("sdxl", "sd15", "sd2", "ssd1b", "vega", "refiner")
TRANSFORMERS = (
    "sd3",
    "sd35_medium",
    "sd35_large",
    "pixart_alpha",
    "pixart_sigma",
    "flux",
    "flux2",
    "longcat",
    "chroma",
    "auraflow",
    "qwen_image",
    "lumina2",
    "z_image",
    "anima",
    "krea2",
)
FAMILIES: dict[str, Family] = {
    **{name: Family(True, (77, 77, 154), share=3) for name in UNETS},
    **{name: Family(False, (1, 5, 12, 24)) for name in TRANSFORMERS},
    **{
        name: Family(False, (1, 5, 12, 24), cells=(34, 40), multiple=2, share=2)
        for name in ("pixart_alpha", "pixart_sigma")
    },
    "sdxl": Family(True, (77, 77, 154), share=3, size={"depth": (1, 2)}),
    "refiner": Family(True, (77, 77, 154), share=3, size={"depth": 1}),
    "svd": Family(True, (1,), frames=3, cells=(1, 12), share=1),
}


@functools.cache
def model(family: str, dtype: str, number: int = 0) -> Any:
    """One model of a family for all configurations, or several by number; none of them may leave a trace on it."""
    import torch

    from benchmarks import random_models, random_transformers

    kinds: Any = random_models.KINDS if FAMILIES[family].unet else random_transformers.TRANSFORMERS
    return kinds[family].build(dtype=getattr(torch, dtype), seed=number, **FAMILIES[family].size)


@functools.cache
def _controlnet(family: str) -> Any:
    from benchmarks import random_models

    return random_models.controlnet(model(family, "float32"))


# ComfyUI's models say goodbye to each other, which they cannot once its modules are being taken apart.
atexit.register(model.cache_clear)
atexit.register(_controlnet.cache_clear)


def conditioning(case: Case, conditions: tuple[Condition, ...]) -> Any:
    """A CONDITIONING with random numbers, areas and masks as a configuration says."""
    import torch

    from benchmarks import random_models, random_transformers

    kinds: Any = random_models.KINDS if FAMILIES[case.family].unet else random_transformers.TRANSFORMERS
    takes, made = kinds[case.family], []
    control = _controlnet(case.family).copy() if case.control else None
    if control is not None:
        hint = torch.rand(1, 3, *(8 * side for side in case.cells), generator=torch.Generator().manual_seed(case.seed))
        control.set_cond_hint(hint, 0.7)
    for one in conditions:
        generator = torch.Generator().manual_seed(one.seed)
        extra: dict[str, Any] = {"strength": one.strength}
        if takes.pooled is not None:
            extra["pooled_output"] = torch.randn(1, takes.pooled, generator=generator)
        if one.area is not None:
            extra |= {"area": one.area, "set_area_to_bounds": False}
        if one.mask:
            extra |= {"mask": torch.rand(1, *case.cells, generator=generator).round(), "mask_strength": 1.0}
            extra["set_area_to_bounds"] = False
        if one.span is not None:
            extra |= {"start_percent": one.span[0], "end_percent": one.span[1]}
        if control is not None:
            extra |= {"control": control, "control_apply_to_uncond": False}
        made.append([torch.randn(1, one.tokens, takes.context, generator=generator), extra])
    return made


def latent(case: Case, others: bool = False) -> dict[str, Any]:
    """The LATENT that a configuration starts from; with `others` the second picture of a pair is another."""
    import torch

    from benchmarks import random_transformers

    shape: tuple[int, ...] = (4, *case.cells)
    if not FAMILIES[case.family].unet:
        takes = random_transformers.TRANSFORMERS[case.family]
        shape = (takes.channels, *((1,) if takes.frames else ()), *case.cells)
    generator = torch.Generator().manual_seed(case.seed)
    start: dict[str, Any] = {"samples": torch.randn(case.batch, *shape, generator=generator)}
    if case.check == "batch":
        start["batch_index"] = [0, 2 if others else 1]
    if others:
        start["samples"][1:] *= -3.0
    if case.inpaint:
        start["noise_mask"] = torch.rand(1, 1, *case.cells, generator=generator).round()
    return start
