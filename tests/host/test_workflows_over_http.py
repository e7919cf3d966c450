"""Whole workflows through a server's HTTP interface, as the browser sends them."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest

from devtools.client import PromptError
from devtools.server import Server

Graph = dict[str, dict[str, Any]]
SAMPLING = {"cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


def text_to_image(seed: int, steps: int = 3, **pruning: Any) -> Graph:
    """SDXL from a prompt to a saved picture; with AT-EDM between loader and sampler if anything is said of it."""
    graph: Graph = {
        "1": {"class_type": "TinyCheckpoint", "inputs": {"kind": "sdxl", "seed": 0}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a (red:1.3) cat", "clip": ["1", 1]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 192, "batch_size": 1}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                **SAMPLING,
                "seed": seed,
                "steps": steps,
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["3", 0],
                "latent_image": ["4", 0],
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "http"}},
    }
    if pruning:
        graph["8"] = {"class_type": "ATEDMApply", "inputs": {"model": ["1", 0], **pruning}}
        graph["5"]["inputs"]["model"] = ["8", 0]
    return graph


def two_samplers(seed: int) -> Graph:
    """The picture, enlarged and sampled again at the larger size with the same pruned model."""
    graph = text_to_image(seed, prune_ratio=0.63)
    again = {**graph["5"]["inputs"], "latent_image": ["10", 0], "denoise": 0.6}
    size = {"width": 192, "height": 256, "upscale_method": "nearest-exact", "crop": "disabled"}
    graph["10"] = {"class_type": "LatentUpscale", "inputs": {"samples": ["5", 0], **size}}
    graph["11"] = {"class_type": "KSampler", "inputs": again}
    graph["12"] = {"class_type": "VAEDecode", "inputs": {"samples": ["11", 0], "vae": ["1", 2]}}
    graph["13"] = {"class_type": "SaveImage", "inputs": {"images": ["12", 0], "filename_prefix": "http-large"}}
    return graph


def pixels(png: bytes) -> tuple[tuple[int, int], bytes]:
    """Size and compressed pixel data of a PNG, without the workflow that ComfyUI writes into it."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    position, size, data = 8, (0, 0), b""
    while position < len(png):
        length, kind = struct.unpack(">I4s", png[position : position + 8])
        body = png[position + 8 : position + 8 + length]
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        elif kind == b"IDAT":
            data += body
        position += 12 + length
    return size, data


def pictures(server: Server, graph: Graph, node: str = "7") -> tuple[tuple[int, int], bytes]:
    (image,) = server.run(graph)["outputs"][node]["images"]
    return pixels(server.view(image))


def own_lines(server: Server) -> list[str]:
    return [line for line in server.log().splitlines() if "AT-EDM: kept" in line]


def test_text_to_image_with_pruning(server: Server) -> None:
    plain = pictures(server, text_to_image(1))
    logged = len(own_lines(server))
    pruned = pictures(server, text_to_image(1, prune_ratio=0.63))
    assert pruned[0] == plain[0] == (128, 192)
    assert pruned[1] != plain[1]
    (line,) = own_lines(server)[logged:]
    assert "3 steps" in line
    assert "kept 100.0%" not in line


def test_a_workflow_with_everything_set(server: Server) -> None:
    graph = text_to_image(
        2,
        prune_ratio=0.5,
        schedule=["9", 0],
        selection="top-k",
        recovery="copy",
        stand_in="attention",
        ranking="self-attention",
        iterations=3,
    )
    graph["9"] = {
        "class_type": "ATEDMSchedule",
        "inputs": {"early_percent": 0.3, "early_ratio": 0.1, "early_blocks": "stage ends"},
    }
    paper = pictures(server, graph)
    assert paper[1] not in (
        pictures(server, text_to_image(2))[1],
        pictures(server, text_to_image(2, prune_ratio=0.5))[1],
    )


def test_ratio_zero_gives_the_unpatched_picture(server: Server) -> None:
    assert pictures(server, text_to_image(3, prune_ratio=0.0)) == pictures(server, text_to_image(3))


def test_two_samplers_at_two_sizes(server: Server) -> None:
    logged = len(own_lines(server))
    small = pictures(server, text_to_image(4, prune_ratio=0.63))
    entry = server.run(two_samplers(4))
    first, second = (pixels(server.view(entry["outputs"][node]["images"][0])) for node in ("7", "13"))
    assert first == small
    assert second[0] == (192, 256)
    # what was sampled already came from ComfyUI's cache
    assert len(own_lines(server)) == logged + 2
    pictures(server, text_to_image(5))
    again = server.run(two_samplers(4))["outputs"]
    assert pixels(server.view(again["13"]["images"][0])) == second


@pytest.mark.parametrize("ratio", [0.96, -0.1, "much"])
def test_a_bad_ratio_is_refused_by_name(server: Server, ratio: Any) -> None:
    status, answer = server.post("/prompt", {"prompt": text_to_image(1, prune_ratio=ratio)})
    assert status == 400
    errors = answer["node_errors"]["8"]["errors"]
    assert [error["extra_info"]["input_name"] for error in errors] == ["prune_ratio"]
    assert answer["node_errors"]["8"]["class_type"] == "ATEDMApply"


def test_a_schedule_typed_in_fails_with_a_sentence(server: Server) -> None:
    with pytest.raises(PromptError, match=r"schedule is a str: connect the output of AT-EDM DSAP Schedule"):
        server.run(text_to_image(1, prune_ratio=0.63, schedule="paper"))


def test_an_interrupted_prompt_leaves_nothing_behind(server: Server) -> None:
    expected = pictures(server, text_to_image(6, prune_ratio=0.63))
    logged = len(own_lines(server))
    prompt_id = server.queue(text_to_image(7, steps=5000, prune_ratio=0.63))
    deadline = time.monotonic() + 60
    while "/5000" not in server.log() and time.monotonic() < deadline:
        time.sleep(0.05)
    server.post("/interrupt", {})
    with pytest.raises(PromptError):
        server.wait(prompt_id)
    (line,) = own_lines(server)[logged:]
    assert "interrupted" in line
    pictures(server, text_to_image(8))  # another prompt, or the cache would answer
    assert pictures(server, text_to_image(6, prune_ratio=0.63)) == expected
