"""What a workflow from anywhere may hold instead of what a node asks for: a refusal or a sentence, never a crash."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from in_process import InProcessHost
from watching import shared_model

from devtools.client import PromptError
from devtools.server import Server

NODES: dict[str, Any] = json.loads(Path(__file__).with_name("node_schemas.json").read_text(encoding="utf-8"))
BAD: dict[str, Any] = {
    "a text": "text",
    "an object": {},
    "a wrapped list": {"__value__": [1, 2]},
    "nothing": None,
    "not a number": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "a huge number": 10**400,
    "a large number": 2**70,
    "a negative number": -1,
    "a long text": "x" * 100_000,
    "a list of three": ["1", 0, 0],
    "a link to nowhere": ["no such node", 0],
    "a link to no output": ["1", 99],
    "a link of texts": ["1", "0"],
}


def graph(node_id: str) -> dict[str, Any]:
    """The node with good inputs, on a tiny model, and something that asks for what it gives."""
    given: dict[str, Any] = {}
    for one in NODES[node_id]["inputs"]:
        if one["type"] == "MODEL":
            given[one["id"]] = ["2" if node_id == "ATEDMReport" else "1", 0]
        elif one["id"] == "result":
            given[one["id"]] = ["3", 0]
        elif "default" in one:
            given[one["id"]] = one["default"]
    kind = "sd3" if node_id == "CATPruningApply" else "sdxl"
    return {
        "1": {"class_type": "TinyCheckpoint", "inputs": {"kind": kind, "seed": 0}},
        "2": {"class_type": "ATEDMApply", "inputs": {"model": ["1", 0], "prune_ratio": 0.5}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {"class_type": node_id, "inputs": given},
        "5": {"class_type": "PreviewAny", "inputs": {"source": ["4", 0]}},
    }


def answer(server: Server, prompt: dict[str, Any]) -> tuple[str, str]:
    """(`refused`, `failed` or `done`, in whose words) for a workflow."""
    status, said = server.post("/prompt", {"prompt": prompt})
    if status != 200:
        assert status == 400, said
        return "refused", json.dumps(said)
    try:
        server.wait(said["prompt_id"], timeout=60)
    except PromptError as error:
        return "failed", str(error)
    return "done", ""


@pytest.mark.parametrize("node_id", NODES)
def test_bad_input_over_http_is_refused_or_explained(server: Server, node_id: str) -> None:
    assert answer(server, graph(node_id))[0] == "done"
    for one in NODES[node_id]["inputs"]:
        for name, value in BAD.items():
            prompt = graph(node_id)
            prompt["4"]["inputs"][one["id"]] = value
            outcome, said = answer(server, prompt)
            if outcome == "failed":
                assert f"{node_id} ValueError: " in said, (one["id"], name, said)
                assert re.search(rf"\b{one['id']} is ", said), (one["id"], name, said)
                assert len(said) < 600, (one["id"], name, said)
        missing = graph(node_id)
        missing["4"]["inputs"].pop(one["id"], None)
        assert answer(server, missing)[0] == ("done" if one["optional"] else "refused"), one["id"]
    assert answer(server, graph(node_id))[0] == "done", "the server still works"


def test_what_is_no_json_is_refused(server: Server) -> None:
    for body in (b"", b"{", b"[" * 10_000, b"[]", b'"text"', b'{"prompt": {"1": 3}}', b'{"prompt": []}'):
        request = urllib.request.Request(
            f"{server.address}/prompt", body, {"Content-Type": "application/json"}, method="POST"
        )
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30)
    assert answer(server, graph("ATEDMSchedule"))[0] == "done"


@pytest.mark.parametrize("node_id", [name for name in NODES if name != "ATEDMSchedule"])
@pytest.mark.parametrize("value", ["text", 3, 0.5, {}, True, None])
def test_a_literal_in_a_model_input_is_told_what_to_connect(host: InProcessHost, node_id: str, value: Any) -> None:
    given = {"result": {}} if node_id == "ATEDMReport" else {}
    with pytest.raises(ValueError, match=rf"model is a {type(value).__name__}: connect the MODEL output of a loader"):
        host.call(node_id, model=value, **given)


@pytest.mark.parametrize("result", [{}, {"samples": None}, {"samples": 3}, "text", 5, None, [1]])
def test_a_report_on_something_else_is_still_a_report(host: InProcessHost, result: Any) -> None:
    from watching import apply, sample

    model = apply(host, shared_model("sdxl"))
    sample(model)
    maps, chart, text = host.call("ATEDMReport", model=model, result=result)
    assert maps.ndim == chart.ndim == 4
    assert "AT-EDM" in text
