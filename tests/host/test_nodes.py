"""The nodes as a user and a shared workflow meet them: ids and order that never change, help on everything.

`node_schemas.json` beside this file holds what is published. It only ever grows: new inputs come last, nothing is
renamed, retyped, reordered or given another default. To record a new node or input:

    ATEDM_RECORD_NODES=1 python -m pytest tests/host/test_nodes.py -k recorded
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import PACK, InProcessHost
from watching import apply, assert_pruned, sample, shared_model, watched_sample

from atedm_core.unet.schedule import DEFAULT_RATIO
from devtools.server import Server

RECORD = Path(__file__).with_name("node_schemas.json")
RECORDED: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))


def pack_nodes(host: InProcessHost) -> dict[str, Any]:
    return {kind.GET_SCHEMA().node_id: kind for kind in host.module("nodes").NODES}


def published(kind: Any) -> dict[str, Any]:
    """What a workflow depends on, as plain data."""
    schema = kind.GET_SCHEMA()
    facts = ("default", "min", "max", "step", "options")
    inputs = []
    for one in schema.inputs:
        held = {name: getattr(one, name, None) for name in facts}
        given = {name: value for name, value in held.items() if value is not None}
        inputs.append({"id": one.id, "type": one.get_io_type(), "optional": bool(one.optional), **given})
    outputs = [{"id": out.id, "type": out.get_io_type(), "name": out.display_name} for out in schema.outputs]
    return {"display_name": schema.display_name, "category": schema.category, "inputs": inputs, "outputs": outputs}


def test_published_nodes_are_as_recorded(host: InProcessHost) -> None:
    found = {node_id: published(kind) for node_id, kind in pack_nodes(host).items()}
    if os.environ.get("ATEDM_RECORD_NODES"):
        RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(RECORD.read_text(encoding="utf-8")), "see the top of this file"


@pytest.mark.parametrize("node_id", ["ATEDMApply", "ATEDMSchedule"])
def test_the_first_published_nodes_are_among_them(host: InProcessHost, node_id: str) -> None:
    assert node_id in RECORDED
    assert node_id in pack_nodes(host)


def test_every_node_and_every_socket_is_explained(host: InProcessHost) -> None:
    for node_id, kind in pack_nodes(host).items():
        schema = kind.GET_SCHEMA()
        assert len(schema.description) > 40, node_id
        assert len(schema.search_aliases) >= 3, node_id
        assert schema.category.startswith("model/patch"), node_id
        for one in [*schema.inputs, *schema.outputs]:
            assert one.tooltip, (node_id, one.id)
            assert len(one.tooltip) > 20, (node_id, one.id)
            assert one.tooltip.endswith("."), (node_id, one.id)


def test_optional_inputs_have_a_default_or_do_without(host: InProcessHost) -> None:
    """An old workflow has no value for an input that came later."""
    for node_id, kind in pack_nodes(host).items():
        for one in kind.GET_SCHEMA().inputs:
            if one.optional and hasattr(one, "default") and one.get_io_type() not in ("ATEDM_SCHEDULE", "MODEL"):
                assert one.default is not None, (node_id, one.id)


def test_every_node_has_a_help_page_that_names_every_input(host: InProcessHost, repository: Path) -> None:
    for node_id, kind in pack_nodes(host).items():
        page = (repository / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        for one in kind.GET_SCHEMA().inputs:
            assert re.search(rf"\b{one.id}\b", page), (node_id, one.id)


def test_help_pages_and_nodes_are_served(server: Server, repository: Path) -> None:
    known = server.get("/object_info")
    for node_id, recorded in RECORDED.items():
        page = server.get_bytes(f"/extensions/{PACK}/docs/{node_id}.md")
        assert page == (repository / "web" / "docs" / f"{node_id}.md").read_bytes()
        assert known[node_id]["display_name"] == recorded["display_name"]
        order = known[node_id]["input_order"]
        assert [*order.get("required", []), *order.get("optional", [])] == [one["id"] for one in recorded["inputs"]]
        assert known[node_id]["output"] == [out["type"] for out in recorded["outputs"]]
        assert known[node_id]["output_tooltips"] != [None]


def test_defaults_act_on_sdxl(host: InProcessHost) -> None:
    """Untouched nodes on SDXL: tokens go, the picture changes, and an untouched schedule node spares blocks early."""
    model = shared_model("sdxl")
    (schedule,) = host.call("ATEDMSchedule")
    (untouched,) = host.call("ATEDMApply", model=model)
    (connected,) = host.call("ATEDMApply", model=model, schedule=schedule)
    out, calls = watched_sample(untouched, steps=4)
    assert_pruned(calls, out, DEFAULT_RATIO)
    assert not torch.equal(out, sample(model, steps=4))
    _, spared = watched_sample(connected, steps=4)
    dropped = [len(call.pruned()) for call in (calls[0], calls[-1], spared[0], spared[-1])]
    assert dropped == [11, 11, 7, 11]


def test_defaults_of_the_schema_are_those_of_the_core(host: InProcessHost) -> None:
    """A call from Python with nothing said and a node with nothing changed are the same."""
    model = shared_model("sdxl")
    bare = host.node("ATEDMApply").execute(model, DEFAULT_RATIO).result[0]
    (filled,) = host.call("ATEDMApply", model=model)
    assert torch.equal(sample(bare), sample(filled))


@pytest.mark.parametrize(
    ("inputs", "advanced"),
    [
        ({"selection": "top-k", "ranking": "self-attention"}, True),
        ({"recovery": "copy"}, True),
        ({"stand_in": "attention"}, True),
        ({"ranking": "cross-attention"}, True),
        ({"ranking": "none"}, True),
        ({"iterations": 3, "ranking": "self-attention"}, True),
        ({"ratio": 0.4}, False),
    ],
)
def test_every_input_of_apply_acts(host: InProcessHost, inputs: dict[str, Any], advanced: bool) -> None:
    model = shared_model("sdxl")
    # What only acts where attention ranks is compared with that.
    beside = {"ranking": inputs["ranking"]} if len(inputs) > 1 else {}
    assert not torch.equal(sample(apply(host, model, **inputs), steps=1), sample(apply(host, model, **beside), steps=1))
    named = {one.id: one for one in pack_nodes(host)["ATEDMApply"].GET_SCHEMA().inputs}
    name = next(iter(inputs))
    assert bool(named.get(name, named["prune_ratio"]).advanced) == advanced


def test_a_choice_that_is_gone_is_still_understood_in_shared_workflows(
    host: InProcessHost, caplog: pytest.LogCaptureFixture
) -> None:
    apply_node, model = host.node("ATEDMApply"), shared_model("sdxl")
    assert apply_node.validate_inputs(recovery="temporal") is True
    caplog.set_level("INFO")
    old = apply(host, model, recovery="temporal")
    assert [line for line in caplog.messages if "'temporal' is gone; 'update'" in line]
    assert torch.equal(sample(old, steps=1), sample(apply(host, model, recovery="update"), steps=1))


@pytest.mark.parametrize(("value", "fine"), [("update", True), (None, True), ("updat", False), (3, False), ([], False)])
def test_other_recoveries_than_there_are_are_refused_with_those_that_there_are(
    host: InProcessHost, value: Any, fine: bool
) -> None:
    answer = host.node("ATEDMApply").validate_inputs(recovery=value)
    assert (answer is True) == fine
    assert fine or str(answer) == f"recovery is {value!r}: choose one of regression, update, copy, zero, interpolate"


@pytest.mark.parametrize(
    "inputs",
    [
        {"early_percent": 0.9},
        {"early_percent": 0.0},
        {"early_ratio": 0.5},
        {"early_blocks": "all"},
        {"early_blocks": "none"},
    ],
)
def test_every_input_of_schedule_acts(host: InProcessHost, inputs: dict[str, Any]) -> None:
    model = shared_model("sdxl")
    plain, changed = (
        sample(apply(host, model, schedule=host.call("ATEDMSchedule", **given)[0]), steps=4) for given in ({}, inputs)
    )
    assert not torch.equal(plain, changed)
