"""What is known of ComfyUI's samplers: which keep earlier predictions, and which add noise.

Only where a sampler is in doubt does it matter: an unknown one is taken to keep earlier predictions, which spends more
real evaluations where those would throw an error about, and forecasts for it are not repaid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...atedm_core.forecast_schedule import levels_of_dpm_fast

Levels = Literal["given", "dpm_fast", "unknown"]
"""Where a sampler evaluates: at the noise levels it is given, at those of DPM-Solver-fast, or wherever it likes."""


@dataclass(frozen=True)
class SamplerKind:
    """How predictions enter a sampler's result.

    Attributes:
        multistep: it keeps earlier predictions.
        stochastic: it adds noise of its own.
        repays: an error in one prediction can be taken back through the next, with known weights.
        levels: where it evaluates.
    """

    multistep: bool = True
    stochastic: bool = False
    repays: bool = False
    levels: Levels = "given"

    def levels_for(self, sigmas: Sequence[float]) -> Sequence[float]:
        """The noise levels that it steps along, falling, one more than there are steps, given those of a run."""
        return levels_of_dpm_fast(sigmas) if self.levels == "dpm_fast" else sigmas


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
    "dpmpp_3m_sde": SamplerKind(True, True),
    "dpmpp_3m_sde_gpu": SamplerKind(True, True),
    "dpmpp_2m_sde_heun": SamplerKind(True, True),
    "dpmpp_2m_sde_heun_gpu": SamplerKind(True, True),
    "er_sde": SamplerKind(True, True),
    "sa_solver": SamplerKind(True, True),
    "sa_solver_pece": SamplerKind(True, True),
    "seeds_2": SamplerKind(False, True),
    "seeds_3": SamplerKind(False, True),
    "res_multistep_ancestral": SamplerKind(True, True),
    "exp_heun_2_x0_sde": SamplerKind(False, True),
    "dpm_fast": SamplerKind(False, levels="dpm_fast"),
    "dpm_adaptive": SamplerKind(False, levels="unknown"),
}


def sampler_kind(sampler: Any) -> SamplerKind:
    """Of a ComfyUI sampler object."""
    function = getattr(sampler, "sampler_function", sampler)
    name = getattr(function, "__name__", "").removeprefix("sample_").removesuffix("_function")
    return _KINDS.get(name, SamplerKind())
