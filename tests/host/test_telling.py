"""Whom a run tells what: the page that asked, at the node that patched the model, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from in_process import InProcessHost
from reporting import Graph, ending, sampler

EVENT = "atedm.run"


def graph(steps: int = 4, **pruning: Any) -> Graph:
    found: Graph = {
        "load": {"class_type": "TinyCheckpoint", "inputs": {"kind": "sdxl", "seed": 0}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["load", 1]}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 64, "batch_size": 1}},
        "prune": {"class_type": "ATEDMApply", "inputs": {"model": ["load", 0], "prune_ratio": 0.63, **pruning}},
        "sample": sampler(1, steps, "prune", "empty"),
    }
    return ending(found, "picture")


@pytest.fixture
def sent(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, str | None]]:
    """Everything that the server sends: what, and to whom; nobody in particular is everybody."""
    found: list[tuple[str, Any, str | None]] = []
    monkeypatch.setattr(host._server, "send_sync", lambda event, data, sid=None: found.append((event, data, sid)))
    return found


def told(sent: list[tuple[str, Any, str | None]], node: str = "prune") -> list[dict[str, Any]]:
    return [data for event, data, _ in sent if event == EVENT and data["node"] == node]


def test_nothing_of_a_run_goes_to_every_client(host: InProcessHost, sent: list[Any]) -> None:
    host.run(graph())
    from server import BinaryEventTypes

    own = [one for one in sent if one[0] == EVENT or one[0] == BinaryEventTypes.TEXT]
    assert own
    assert {client for _, _, client in own} == {"test"}
    assert all("AT-EDM" not in str(data) for _, data, client in sent if client is None)


def test_steps_are_told_and_then_what_was_saved(host: InProcessHost, sent: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(host.module("patches.host.step_watch"), "_PAUSE", 0.0)
    host.run(graph())
    *steps, ended = told(sent)
    assert [one["step"] for one in steps] == [1, 2, 3, 4]
    assert {(one["state"], one["steps"], one["doing"]) for one in steps} == {("sampling", 4, "pruned")}
    assert ended["state"] == "saved"
    assert 0.1 < ended["saved"] < 0.6
    assert ended["speed_up"] is None, "one run says nothing of speed"


def test_few_messages_are_sent_however_many_steps(host: InProcessHost, sent: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(host.module("patches.host.step_watch"), "_PAUSE", 1e9)
    host.run(graph(steps=12))
    assert [one["state"] for one in told(sent)] == ["sampling", "saved"]


def test_each_node_is_told_its_own_share(host: InProcessHost, sent: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(host.module("patches.host.step_watch"), "_PAUSE", 0.0)
    found = graph(steps=10)
    found["forecast"] = {"class_type": "StepForecastApply", "inputs": {"model": ["prune", 0], "compute": 0.6}}
    found["sample"]["inputs"]["model"] = ["forecast", 0]
    host.run(found)
    assert told(sent)[-1]["state"] == "saved"
    assert told(sent, "forecast")[-1]["state"] in ("saved", "nothing")
    assert any(one.get("doing") == "forecast" for one in told(sent, "forecast"))


def test_two_samplers_tell_the_node_that_each_goes_through(host: InProcessHost, sent: list[Any]) -> None:
    """The nearest node that is alike, through LoRAs and past an earlier sampler with another node of the same kind."""
    found = graph()
    found["other"] = {"class_type": "ATEDMApply", "inputs": {"model": ["load", 0], "prune_ratio": 0.0}}
    between = {"model": ["other", 0], "sampling": "eps", "zsnr": False}
    found["far"] = {"class_type": "ModelSamplingDiscrete", "inputs": between}
    found["again"] = sampler(2, 3, "far", "sample")
    found["second"] = {"class_type": "VAEDecode", "inputs": {"samples": ["again", 0], "vae": ["load", 2]}}
    found["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["second", 0]}}
    host.run(found)
    assert told(sent)[-1]["state"] == "saved"
    assert told(sent, "other")[-1]["state"] == "off"


@pytest.mark.parametrize(
    ("changes", "state", "key"),
    [
        ({"prune_ratio": 0.0}, "off", "prune_ratio_off"),
        ({"prune_ratio": 0.01}, "nothing", "too_small"),
        ({"prune_ratio": 0.05}, "nothing", "does_not_pay"),
    ],
)
def test_why_nothing_was_saved_is_told_in_words_that_can_be_translated(
    host: InProcessHost, sent: list[Any], changes: dict[str, Any], state: str, key: str
) -> None:
    host.run(graph(**changes))
    ended = told(sent)[-1]
    assert (ended["state"], ended["reason"]["key"]) == (state, key)


def test_cat_on_few_steps_says_so(host: InProcessHost, sent: list[Any]) -> None:
    found = graph()
    found["load"]["inputs"]["kind"] = "sd3"
    found["empty"] = {"class_type": "EmptySD3LatentImage", "inputs": {"width": 384, "height": 288, "batch_size": 1}}
    inputs = {"model": ["load", 0], "keep_ratio": 0.3, "warmup": 0.29, "least_full_steps": 4}
    found["prune"] = {"class_type": "CATPruningApply", "inputs": inputs}
    host.run(found)
    ended = told(sent)[-1]
    assert ended["state"] == "nothing"
    assert ended["reason"] == {"key": "all_full", "values": {"steps": "4", "warmup": "4"}}


def test_auto_on_few_steps_of_a_transformer_says_so(host: InProcessHost, sent: list[Any]) -> None:
    found = graph()
    found["load"]["inputs"]["kind"] = "sd3"
    found["empty"] = {"class_type": "EmptySD3LatentImage", "inputs": {"width": 384, "height": 288, "batch_size": 1}}
    found["prune"] = {"class_type": "ATEDMAuto", "inputs": {"model": ["load", 0], "speed_up": 1.6}}
    host.run(found)
    ended = told(sent)[-1]
    assert (ended["state"], ended["reason"]["key"]) == ("nothing", "run_in_full")


def test_without_a_client_nobody_is_told(host: InProcessHost, sent: list[Any], monkeypatch: Any) -> None:
    """A workflow queued by a program that named no client."""
    told_before = host.module("patches.host.audience").audience_of
    monkeypatch.setattr(host._server, "client_id", None)
    assert told_before("anything") is None


def test_every_reason_has_its_english(host: InProcessHost) -> None:
    words = host.module("report.words")
    for key in words._english()["reason"]:
        assert isinstance(words._english()["reason"][key], str)
    said = words.reason("too_small", ratio=0.01)
    assert said.english().startswith("prune_ratio 0.01 rounds to no token")
    assert said.as_json() == {"key": "too_small", "values": {"ratio": "0.01"}}
