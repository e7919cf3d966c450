"""On a ComfyUI that is too old the pack says so in one sentence, and nothing of it fails with a traceback."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from in_process import PACK, InProcessHost
from watching import apply, own_lines, sample, shared_model

OLD = "0.18.2"
SENTENCE = r"ComfyUI 0\.18\.2 is too old, so AT-EDM cannot prune a U-Net\. It needs ComfyUI 0\.20\.1 or newer"


@pytest.fixture
def version(host: InProcessHost) -> Iterator[Any]:
    """The pack's module about the host, which forgets what it found before and after."""
    module = host.module("patches.host.version")
    module.why_blocks_cannot_be_pruned.cache_clear()
    yield module
    module.why_blocks_cannot_be_pruned.cache_clear()


@pytest.fixture
def asks_last(version: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host that runs the layers it knows before it asks anybody, as ComfyUI did."""
    import comfy.ldm.modules.diffusionmodules.openaimodel as unet
    import comfyui_version
    from comfy.ldm.modules.attention import SpatialTransformer

    newer = unet.forward_timestep_embed

    def older(ts: Any, x: Any, emb: Any, context: Any, transformer_options: Any, *args: Any, **kw: Any) -> Any:
        options = dict(transformer_options)
        for layer in ts:
            if isinstance(layer, SpatialTransformer):
                x = layer(x, context, options)
            else:
                x = newer([layer], x, emb, context, options, *args, **kw)
        return x

    monkeypatch.setattr(comfyui_version, "__version__", OLD)
    monkeypatch.setattr(unet, "forward_timestep_embed", older)
    return version


def test_at_edm_is_refused_with_the_version_and_what_is_needed(host: InProcessHost, asks_last: Any) -> None:
    with pytest.raises(ValueError, match=SENTENCE):
        apply(host, shared_model("sdxl"))


def test_off_is_off_on_an_old_host_too(host: InProcessHost, asks_last: Any) -> None:
    assert torch.equal(sample(apply(host, shared_model("sdxl"), 0.0)), sample(shared_model("sdxl")))


def test_auto_forecasts_alone_and_says_why(
    host: InProcessHost, asks_last: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (model,) = host.call("ATEDMAuto", model=shared_model("sdxl"), speed_up=1.6)
    assert own_lines(caplog) == [f"AT-EDM Auto: forecasts alone: {asks_last.why_blocks_cannot_be_pruned()}"]
    caplog.set_level("INFO")
    assert torch.isfinite(sample(model, steps=12)).all()
    assert any("forecast" in line for line in own_lines(caplog, logging.INFO))


def test_a_model_patched_elsewhere_says_the_same_where_nothing_was_pruned(
    host: InProcessHost, version: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    model = apply(host, shared_model("sdxl"))
    version.why_blocks_cannot_be_pruned.cache_clear()
    request.getfixturevalue("asks_last")
    sample(model)
    (warned,) = own_lines(caplog, logging.WARNING)
    assert f"nothing was pruned: ComfyUI {OLD} is too old" in warned


def test_an_old_host_that_asks_is_pruned(host: InProcessHost, version: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfyui_version

    monkeypatch.setattr(comfyui_version, "__version__", OLD)
    assert version.why_blocks_cannot_be_pruned() is None
    assert not torch.equal(sample(apply(host, shared_model("sdxl"))), sample(shared_model("sdxl")))


@pytest.mark.parametrize("given", ["0.20.1", "0.20.10", "0.30.0", "1.0"])
def test_a_newer_version_is_never_doubted(version: Any, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfyui_version

    monkeypatch.setattr(comfyui_version, "__version__", given)
    monkeypatch.setattr(version, "_gives_blocks_away", lambda: False)
    assert version.why_blocks_cannot_be_pruned() is None


class OldInput:
    """An input as hosts made them before there were advanced ones."""

    def __init__(self, id: str, default: Any = None, optional: bool = False) -> None:
        self.id = id


def host_without(name: str) -> types.ModuleType:
    """`comfy_api.latest` of an older host."""
    module = types.ModuleType("comfy_api.latest")
    if name == "advanced inputs":
        module.io = types.SimpleNamespace(Int=types.SimpleNamespace(Input=OldInput))  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("missing", ["advanced inputs", "the node interface", "everything"])
def test_without_what_its_nodes_need_the_pack_says_one_line_and_is_skipped(
    host: InProcessHost, missing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import asyncio

    import comfyui_version

    import nodes

    monkeypatch.setattr(comfyui_version, "__version__", "0.3.64")
    old = None if missing == "everything" else host_without(missing)
    monkeypatch.setitem(sys.modules, "comfy_api.latest", old)
    folder = host.base / "custom_nodes" / "at-edm-on-an-old-host"
    folder.symlink_to((host.base / "custom_nodes" / PACK).resolve(), target_is_directory=True)
    before = set(sys.modules)
    try:
        loaded = asyncio.run(nodes.load_custom_node(str(folder), module_parent="custom_nodes"))
    finally:
        folder.unlink()
        for name in set(sys.modules) - before:
            del sys.modules[name]
    assert not loaded
    assert "Traceback" not in caplog.text
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == [
        "ComfyUI 0.3.64 is too old, so AT-EDM cannot be loaded. It needs ComfyUI 0.20.1 or newer: update ComfyUI."
    ]
