"""AT-EDM beside packs that replace the whole `forward` of a layer: its block runs whole, with one warning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessHost
from watching import Calls, apply, assert_pruned, shared_model, transformers, warning_lines, watched_sample

NAME = "test_beside_foreign_code"


def run(model: Any, kind: str) -> tuple[torch.Tensor, Calls]:
    return watched_sample(model, kind, width=96, height=128)


def counts_on_all_tokens(layer: Any) -> Any:
    """A `forward` that adds something of the whole grid's size, as reference ControlNets with a mask do."""
    own = type(layer).forward

    def forward(x: torch.Tensor, context: Any = None, transformer_options: Any = None) -> torch.Tensor:
        height, width = transformer_options["activations_shape"][-2:]
        return own(layer, x, context, transformer_options) + torch.linspace(0, 1, height * width).view(1, -1, 1)

    return forward


def replaced_while_it_runs(model: Any, places: list[Any], replacement: Any) -> Any:
    """A clone in whose model calls the layers of some blocks have another `forward`, and none after them."""

    def evaluate(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
        layers = [layer for place in places for layer in transformers(model)[place].transformer_blocks]
        for layer in layers:
            layer.forward = replacement(layer)
        try:
            out: torch.Tensor = apply_model(given["input"], given["timestep"], **given["c"])
        finally:
            for layer in layers:
                del layer.forward
        return out

    clone = model.clone()
    clone.set_model_unet_function_wrapper(evaluate)
    return clone


@pytest.mark.parametrize("inputs", [{}, {"recovery": "copy"}, {"prune_from": "block start"}])
def test_a_block_whose_layers_have_foreign_code_runs_whole(
    host: InProcessHost, caplog: pytest.LogCaptureFixture, inputs: dict[str, Any]
) -> None:
    caplog.set_level("INFO")
    first, *_, last = transformers(shared_model("sdxl"))
    model = replaced_while_it_runs(apply(host, shared_model("sdxl"), **inputs), [first, last], counts_on_all_tokens)
    out, calls = run(model, "sdxl")
    assert_pruned(calls, out)
    untouched = {f"{part} {index}" for part, index in transformers(model)} - {f"{p} {i}" for p, i in (first, last)}
    assert {event.block.name for event in calls.events()} == untouched
    warned = [line for line in warning_lines(caplog) if "replaces whole attention layers" in line]
    assert len(warned) == 1
    assert NAME in warned[0]


def test_with_foreign_code_in_every_block_the_picture_is_as_without_at_edm(
    host: InProcessHost, caplog: pytest.LogCaptureFixture
) -> None:
    everywhere = list(transformers(shared_model("sd15")))
    plain = replaced_while_it_runs(shared_model("sd15"), everywhere, counts_on_all_tokens)
    pruned = replaced_while_it_runs(apply(host, shared_model("sd15")), everywhere, counts_on_all_tokens)
    assert torch.equal(run(pruned, "sd15")[0], run(plain, "sd15")[0])
    assert f"{NAME} replaces whole attention layers. Take" in warning_lines(caplog)[-1]


def test_what_the_host_leaves_behind_where_it_undid_a_patch_is_pruned(host: InProcessHost) -> None:
    model = shared_model("sdxl")
    expected, _ = run(apply(host, model), "sdxl")
    out, calls = run(
        replaced_while_it_runs(apply(host, model), list(transformers(model)), lambda layer: layer.forward), "sdxl"
    )
    assert_pruned(calls, out)
    assert torch.equal(out, expected)


def test_a_layer_of_another_class_runs_whole(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs that give a module another class, and those that replace the method of the host's class."""
    from comfy.ldm.modules.attention import BasicTransformerBlock

    own = BasicTransformerBlock.forward
    monkeypatch.setattr(BasicTransformerBlock, "forward", lambda self, *args, **kwargs: own(self, *args, **kwargs))
    out, calls = run(apply(host, shared_model("sdxl")), "sdxl")
    assert calls.events() == []
    assert torch.equal(out, run(shared_model("sdxl"), "sdxl")[0])
