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
from tiny_transformers import sample

SIZE = 272  # pixels: 34 latent pixels and 17 x 17 tokens
TOKENS = 17 * 17
WARMUP = 3


@dataclass
class Call:
    """One model call: conditions in it, rows of its batch, the tokens it ran on (`None` for all), bytes then kept."""

    sigma: float
    uuids: tuple[Any, ...]
    selected: torch.Tensor | None
    kept_bytes: int = 0


class Watch(list[Call]):
    """The calls that CAT Pruning took part in, and the noise levels of the run."""

    sigmas: list[float]

    def pruned(self) -> list[Call]:
        return [call for call in self if call.selected is not None]

    def full(self) -> list[Call]:
        return [call for call in self if call.selected is None]


def cat(host: InProcessHost, model: Any, **inputs: Any) -> Any:
    """The model that CAT Pruning Apply gives out, with a warm-up of three steps."""
    inputs = {"keep_ratio": 0.3, "warmup": 0.0, "least_full_steps": WARMUP, **inputs}
    return host.call("CATPruningApply", model=model, **inputs)[0]


@contextmanager
def watching(host: InProcessHost) -> Iterator[Watch]:
    """Every call that is hooked while this lasts."""
    module = host.module("patches.cat_apply")
    original = module._call
    watch = Watch()

    def seen(run: Any, model: Any, uuids: tuple[Any, ...], device: Any) -> Any:
        call = original(run, model, uuids, device)
        watch.sigmas = run.sigmas
        watch.append(Call(run._sigma, uuids, call.selected, run.nbytes()))
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


def kept_objects(host: InProcessHost) -> list[Any]:
    """Objects of the pack that hold tensors during a run, wherever they are."""
    gc.collect()
    kinds = (
        host.module("patches.cat_memory").CallMemory,
        host.module("patches.cat_memory").AttentionMemory,
        host.module("patches.cat_run").CATRun,
        host.module("patches.kept_counts").KeptCounts,
        host.module("atedm_core.cat").TokenSelector,
        host.module("atedm_core.clusters").Clusters,
    )
    return [one for one in gc.get_objects() if isinstance(one, kinds)]
