"""CAT Pruning beside packs that swap a transformer's blocks for one of their own while it is called."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from cat_watching import SIZE, cat, watched
from in_process import InProcessHost
from sample_transformers import sample, shared

HOW = {"width": SIZE, "height": SIZE}


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    own = [record for record in caplog.records if record.getMessage().startswith("CAT Pruning")]
    return [record.getMessage() for record in own if record.levelno == level]


class AllBlocks(torch.nn.Module):
    """One module that runs a list of blocks, in the place of that list."""

    def __init__(self, blocks: Any, together: bool) -> None:
        super().__init__()
        self.blocks, self.together = blocks, together

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        names = {
            name: kwargs.pop(name)
            for name in ("img", "txt", "hidden_states", "encoder_hidden_states")
            if name in kwargs
        }
        given = list(args)
        for block in self.blocks:
            out = block(*given, **names, **kwargs)
            if names:
                names = dict(zip(names, out, strict=True))
            elif self.together:
                given[:2] = out
            else:
                given[0] = out
        return tuple(names.values()) if names else tuple(given[:2]) if self.together else given[0]


def first_block_cache(model: Any, container: str) -> Any:
    """While a model call lasts, one module stands in the place of all blocks, as with a first-block cache."""
    blocks = getattr(model.model.diffusion_model, container)
    swapped = torch.nn.ModuleList([AllBlocks(blocks, together=container != "blocks")])

    def evaluate(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
        setattr(model.model.diffusion_model, container, swapped)
        try:
            out: torch.Tensor = apply_model(given["input"], given["timestep"], **given["c"])
        finally:
            setattr(model.model.diffusion_model, container, blocks)
        return out

    clone = model.clone()
    clone.set_model_unet_function_wrapper(evaluate)
    return clone


@pytest.mark.parametrize(
    ("kind", "container"),
    [("sd3", "joint_blocks"), ("pixart_sigma", "blocks"), ("flux", "double_blocks"), ("chroma", "double_blocks")],
)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_beside_a_first_block_cache_the_run_is_left_alone(
    host: InProcessHost, kind: str, container: str, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plain = sample(first_block_cache(shared(kind), container), kind, **HOW)
    if first:
        patched = cat(host, first_block_cache(shared(kind), container))
    else:
        patched = first_block_cache(cat(host, shared(kind)), container)
    out, calls = watched(host, patched, kind)
    assert torch.equal(out, plain)
    assert calls == []
    (line,) = lines(caplog, logging.INFO)
    assert "test_cat_beside_block_caches changes the model's blocks" in line
    assert "pruned 0 of 8" in line
    assert lines(caplog) == []
