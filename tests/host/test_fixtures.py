"""The test host itself: what every other host test stands on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from in_process import InProcessHost
from sample_tiny import cond_for, ksample

from benchmarks import random_models as tiny_models
from devtools.client import PromptError, execution_seconds
from devtools.server import Server

PACK_NODES = ("ATEDMApply", "ATEDMSchedule")


def text_to_image(kind: str = "sdxl", seed: int = 1) -> dict[str, dict[str, Any]]:
    sampling = {"seed": seed, "steps": 2, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    return {
        "1": {"class_type": "TinyCheckpoint", "inputs": {"kind": kind, "seed": 0}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a (red:1.3) cat", "clip": ["1", 1]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "5": {"class_type": "KSampler", "inputs": {**links, **sampling}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "tiny"}},
    }


@pytest.mark.parametrize("kind", sorted(tiny_models.KINDS))
def test_tiny_model_samples_repeatably(host: InProcessHost, kind: str) -> None:
    frames = 3 if kind == "svd" else 1
    positive, negative = cond_for(kind, 1), cond_for(kind, 2)
    model = tiny_models.KINDS[kind].build()
    first, again, other = (
        ksample(model, positive, negative, width=128, height=128, steps=2, batch=frames, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.isfinite(first).all()
    assert first.std() > 0
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_conditioning_matters_to_tiny_models(host: InProcessHost) -> None:
    model = tiny_models.KINDS["sdxl"].build()
    one, two = (
        ksample(model, cond_for("sdxl", seed), cond_for("sdxl", 9), width=128, height=128, steps=1) for seed in (1, 2)
    )
    assert not torch.equal(one, two)


def test_weights_do_not_depend_on_what_lay_in_memory(host: InProcessHost) -> None:
    one, two = (tiny_models.sdxl(seed=3).model.diffusion_model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.isfinite(tensor).all() for tensor in one.values())


def test_pack_is_loaded_as_comfyui_loads_it(host: InProcessHost) -> None:
    for node_id in PACK_NODES:
        assert host.node(node_id).RELATIVE_PYTHON_MODULE == "custom_nodes.at-edm"


def test_call_fills_in_defaults(host: InProcessHost) -> None:
    (schedule,) = host.call("ATEDMSchedule")
    assert schedule is not None


def test_a_workflow_runs_in_process(host: InProcessHost) -> None:
    run = host.run(text_to_image())
    assert [image["type"] for image in run.outputs["7"]["images"]] == ["output"]
    assert "executed" in run.event_names()


def test_a_bad_workflow_is_refused_in_process(host: InProcessHost) -> None:
    bad = text_to_image()
    bad["4"]["inputs"]["width"] = -8
    assert "width" in str(host.refusal(bad))
    with pytest.raises(RuntimeError, match="refused"):
        host.run(bad)


def test_a_workflow_runs_over_http(server: Server) -> None:
    entry = server.run(text_to_image("sd15"))
    (image,) = entry["outputs"]["7"]["images"]
    assert server.view(image).startswith(b"\x89PNG")
    assert execution_seconds(entry) > 0


def test_server_shows_the_pack(server: Server) -> None:
    known = server.get("/object_info")
    for node_id in PACK_NODES:
        assert known[node_id]["python_module"] == "custom_nodes.at-edm"
    assert "IMPORT FAILED" not in server.log()


def test_a_bad_workflow_is_refused_over_http(server: Server) -> None:
    bad = text_to_image()
    del bad["6"]["inputs"]["vae"]
    with pytest.raises(PromptError, match="required_input_missing"):
        server.run(bad)
