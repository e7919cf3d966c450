"""What the tests of runs under CAT Pruning look at: every call's tokens, what is kept, what the log said."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from sample_transformers import latent, prompt, sample

SIZE = 272  # pixels: 34 latent pixels and 17 x 17 tokens
TOKENS = 17 * 17
WARMUP = 3


@dataclass
class Call:
    """One model call: conditions in it, rows of its batch, the tokens it ran on (`None` for all), bytes then kept.

    `waited` are the steps since these tokens were last computed, where that counts; `place` is half the log-SNR, and
    `share` what the step's prediction is to the result; `opened` is where the inpainting mask lets predictions
    count at all, `[B, N]`.
    """

    sigma: float
    uuids: tuple[Any, ...]
    selected: torch.Tensor | None
    kept_bytes: int = 0
    waited: torch.Tensor | None = None
    place: float = 0.0
    share: Any = None
    opened: torch.Tensor | None = None


class Watch(list[Call]):
    """The calls that CAT Pruning took part in, and the noise levels of the run."""

    sigmas: list[float]

    def pruned(self) -> list[Call]:
        return [call for call in self if call.selected is not None]

    def full(self) -> list[Call]:
        return [call for call in self if call.selected is None]


def cat(host: InProcessHost, model: Any, **inputs: Any) -> Any:
    """The model that CAT Pruning Apply gives out, with a warm-up of three steps and no full step after them."""
    inputs = {"keep_ratio": 0.3, "warmup": 0.0, "least_full_steps": WARMUP, "refresh_interval": 0, **inputs}
    return host.call("CATPruningApply", model=model, **inputs)[0]


@contextmanager
def watching(host: InProcessHost) -> Iterator[Watch]:
    """Every call that is hooked while this lasts."""
    module = host.module("patches.dit.apply")
    half_log_snr = host.module("atedm_core.forecast").half_log_snr
    original = module._call
    watch = Watch()

    def seen(run: Any, model: Any, uuids: tuple[Any, ...], *given: Any) -> Any:
        call = original(run, model, uuids, *given)
        watch.sigmas = run.sigmas
        if call.memory is not None:
            opened = None if run._token_mask is None else run._token_mask > 0
            counts = half_log_snr(run.evaluation.sigma, run.flow), run._shares[run.step], opened
            watch.append(Call(run.evaluation.sigma, uuids, call.selected, run.cache.nbytes(), call.waited, *counts))
        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_call", seen)
        yield watch


def watched(host: InProcessHost, model: Any, kind: str, **how: Any) -> tuple[torch.Tensor, Watch]:
    """Eight small steps, and what was done meanwhile."""
    how = {"width": SIZE, "height": SIZE, **how}
    with watching(host) as calls:
        out = sample(model, kind, **how)
    assert torch.isfinite(out).all()
    return out, calls


def guided_sample(host: InProcessHost, guider: Any, steps: int = 8) -> torch.Tensor:
    """An SD3 sampled through SamplerCustomAdvanced, which takes guiders of its own."""
    given = {
        "noise": host.call("RandomNoise", noise_seed=42)[0],
        "guider": guider,
        "sampler": host.call("KSamplerSelect", sampler_name="euler")[0],
        "sigmas": host.call("BasicScheduler", model=guider.model_patcher, scheduler="normal", steps=steps, denoise=1.0)[
            0
        ],
    }
    samples: torch.Tensor = host.call("SamplerCustomAdvanced", latent_image=latent("sd3", SIZE, SIZE), **given)[0][
        "samples"
    ]
    return samples


def dual_guider(host: InProcessHost, model: Any, style: str = "regular") -> Any:
    """A guider of three conditions, none of which is called both positive and first."""
    how = {"cfg_conds": 3.0, "style": style, "cfg_cond2_negative": 2.0}
    conditions = {"cond1": prompt("sd3", 1), "cond2": prompt("sd3", 4), "negative": prompt("sd3", 2)}
    return host.call("DualCFGGuider", model=model, **conditions, **how)[0]


def kept_objects(host: InProcessHost) -> list[Any]:
    """Objects of the pack that hold tensors during a run, wherever they are."""
    gc.collect()
    kinds = (
        host.module("patches.dit.kv_cache").CallMemory,
        host.module("patches.dit.kv_cache").AttentionMemory,
        host.module("atedm_core.dit.holding").HeldLatent,
        host.module("patches.dit.run").CATRun,
        host.module("patches.host.kept_counts").KeptCounts,
        host.module("atedm_core.dit.selection").TokenSelector,
        host.module("atedm_core.dit.expected_error").ExpectedErrorSelector,
        host.module("atedm_core.dit.clusters").Clusters,
    )
    return [one for one in gc.get_objects() if isinstance(one, kinds)]
