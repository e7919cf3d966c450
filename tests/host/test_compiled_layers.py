"""Under torch.compile the layers inside attention blocks are compiled too: few programs, made once, used everywhere.

Programs are traced and run as they are (`eager`): that is what breaks and what is made anew; what a compiler makes of
them is its own business, and takes minutes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessHost
from watching import apply, assert_pruned, relative_error, sample, shared_model, transformers, watched_sample

pytestmark = pytest.mark.slow

SIZE = {"width": 256, "height": 256}  # of a single token PyTorch always makes a program of its own


class Backend:
    """Keeps the programs that it is given, and runs them as they are."""

    def __init__(self) -> None:
        self.programs: list[Any] = []

    def __call__(self, program: Any, inputs: list[Any]) -> Any:
        self.programs.append(program)
        return program.forward

    @property
    def layers(self) -> int:
        """How many of the programs hold a whole layer: two attentions and a feed-forward."""
        return sum("scaled_dot_product_attention" in str(program.graph) for program in self.programs)


def compiled(model: Any, backend: Any) -> Any:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    clone = model.clone()
    set_torch_compile_wrapper(model=clone, backend=backend, options=None)
    return clone


@pytest.fixture
def backend() -> Any:
    torch._dynamo.reset()
    yield Backend()
    torch._dynamo.reset()


def test_layers_are_compiled_once_for_each_width_and_whether_tokens_were_dropped(
    host: InProcessHost, backend: Backend
) -> None:
    model = apply(host, shared_model("sdxl"))
    expected = sample(model, **SIZE)
    both = compiled(model, backend)
    out, calls = watched_sample(both, **SIZE)
    assert_pruned(calls, out)
    assert relative_error(out, expected) < 1e-5
    made = len(backend.programs)
    assert backend.layers == 4, "two widths, each on the whole grid and on few tokens"
    assert torch.equal(sample(both, **SIZE), out)
    assert len(backend.programs) == made, "the second run makes nothing anew"
    other, calls = watched_sample(compiled(apply(host, shared_model("sdxl"), 0.3), backend), **SIZE)
    assert_pruned(calls, other, 0.3)
    assert relative_error(other, sample(apply(host, shared_model("sdxl"), 0.3), **SIZE)) < 1e-5
    assert backend.layers == 4, "for another ratio nothing has to be made"
    assert torch.equal(sample(model, **SIZE), expected), "and the model that was not compiled is as it was"


@pytest.mark.parametrize("inputs", [{"ranking": "self-attention"}, {"prune_from": "inside first layer"}])
def test_a_layer_that_is_looked_into_runs_as_it_is_and_the_others_compiled(
    host: InProcessHost, backend: Backend, inputs: dict[str, Any]
) -> None:
    model = apply(host, shared_model("sdxl"), **inputs)
    out, calls = watched_sample(compiled(model, backend))
    assert_pruned(calls, out)
    assert relative_error(out, sample(model)) < 1e-5
    assert backend.layers >= 2


def test_another_nodes_patch_on_the_layers_leaves_them_uncompiled(host: InProcessHost, backend: Backend) -> None:
    model = apply(host, shared_model("sdxl"))
    seen: list[int] = []
    model.set_model_attn2_output_patch(lambda n, extra_options: seen.append(n.shape[1]) or n)
    out, _ = watched_sample(compiled(model, backend))
    assert torch.equal(out, sample(model))
    assert backend.layers == 0
    assert seen


def test_it_survives_a_step_cache_around_it(host: InProcessHost, backend: Backend) -> None:
    from comfy_extras.nodes_easycache import EasyCacheNode

    model = apply(host, shared_model("sdxl"))
    cached = EasyCacheNode.execute(model, 0.3, 0.15, 0.95, False)[0]
    out = sample(compiled(cached, backend), steps=6)
    assert relative_error(out, sample(cached, steps=6)) < 1e-4
    assert backend.layers >= 3


def test_a_model_that_is_compiled_no_more_runs_uncompiled(host: InProcessHost, backend: Backend) -> None:
    from comfy.patcher_extension import WrappersMP

    both = compiled(apply(host, shared_model("sdxl")), backend)
    both.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, "torch.compile")
    assert torch.equal(sample(both), sample(apply(host, shared_model("sdxl"))))
    assert backend.programs == []


def test_a_whole_block_that_another_node_replaced_is_still_asked(host: InProcessHost, backend: Backend) -> None:
    """Its own layers must not be run behind its back where nothing is dropped in it."""
    spared = {"early_percent": 1.0, "early_blocks": "all"}
    (schedule,) = host.call("ATEDMSchedule", **spared)
    (model,) = host.call("ATEDMApply", model=shared_model("sdxl"), schedule=schedule)
    both, block = compiled(model, backend), transformers(model)["input", 4]
    asked: list[int] = []
    own = block.forward

    def replaced(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        asked.append(len(x))
        return own(x, *args, **kwargs)

    block.forward = replaced
    try:
        out = sample(both, steps=2)
    finally:
        del block.forward
    assert asked
    assert relative_error(out, sample(shared_model("sdxl"), steps=2)) < 1e-5
    assert backend.layers >= 1, "the other blocks are compiled"
