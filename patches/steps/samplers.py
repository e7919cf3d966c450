"""What is known of ComfyUI's samplers: which keep earlier predictions, and which add noise.

Only where a sampler is in doubt does it matter: an unknown one is taken to keep earlier predictions, which spends more
real evaluations where those would throw an error about, and forecasts for it are not repaid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SamplerKind:
    """How predictions enter a sampler's result.

    Attributes:
        multistep: it keeps earlier predictions.
        stochastic: it adds noise of its own.
        repays: an error in one prediction can be taken back through the next, with known weights.
    """

    multistep: bool = True
    stochastic: bool = False
    repays: bool = False


_KINDS = {
    "euler": SamplerKind(False, False, True),
    "euler_ancestral": SamplerKind(False, True, True),
    "dpmpp_2m": SamplerKind(True, False, True),
    "dpmpp_2m_sde": SamplerKind(True, True, True),
    "dpmpp_2m_sde_gpu": SamplerKind(True, True, True),
    "heun": SamplerKind(False),
    "dpm_2": SamplerKind(False),
    "dpm_2_ancestral": SamplerKind(False, True),
    "dpmpp_sde": SamplerKind(False, True),
    "dpmpp_sde_gpu": SamplerKind(False, True),
    "dpmpp_2s_ancestral": SamplerKind(False, True),
    "lcm": SamplerKind(False, True),
    "ddpm": SamplerKind(False, True),
}


def sampler_kind(sampler: Any) -> SamplerKind:
    """Of a ComfyUI sampler object."""
    function = getattr(sampler, "sampler_function", sampler)
    name = getattr(function, "__name__", "").removeprefix("sample_")
    return _KINDS.get(name, SamplerKind())
