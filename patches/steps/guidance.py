"""Samplers that look into the guidance of every evaluation, as those of CFG++ do (arXiv 2406.08070).

They hang a function into the options of their calls, which is handed the prediction without guidance. Where that is so,
both predictions are forecast, as one tensor of twice the batch, and the sampler's function gets the one that it wants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

POST_CFG = "sampler_post_cfg_function"

Function = Callable[[dict[str, Any]], Tensor]


def own_functions(options: Mapping[str, Any], of_the_model: int) -> Sequence[Function]:
    """What a sampler has hung in behind the model's own functions, of which there are so many."""
    functions: Sequence[Function] = options.get(POST_CFG, ())[of_the_model:]
    return functions


def evaluate_both(
    evaluate: Callable[[dict[str, Any]], Tensor], options: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """A real evaluation's prediction with guidance and the one without; the latter `None` where there is none."""
    unguided: list[Tensor | None] = []

    def note(given: dict[str, Any]) -> Tensor:
        unguided.append(given.get("uncond_denoised"))
        denoised: Tensor = given["denoised"]
        return denoised

    guided = evaluate({**options, POST_CFG: [*options[POST_CFG], note]})
    return guided, unguided[-1] if unguided else None


def hand_over(functions: Sequence[Function], both: Tensor, given: dict[str, Any]) -> Tensor:
    """Call the sampler's functions as the host would, and return what they make of the prediction `[B, ...]`.

    Args:
        functions: of the sampler.
        both: `[2 B, ...]`, with guidance first.
        given: everything else that the host tells them.
    """
    denoised, unguided = both.chunk(2)
    for function in functions:
        denoised = function({**given, "denoised": denoised, "uncond_denoised": unguided, "cond_denoised": denoised})
    return denoised


def twice(one: Tensor, other: Tensor) -> Tensor:
    """Two predictions as one of twice the batch."""
    return torch.cat([one, other])
