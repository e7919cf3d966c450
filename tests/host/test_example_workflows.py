"""Every example workflow and every workflow ever saved runs in a real server as it is.

Those for U-Nets run on the demo model, those for transformers on tiny ones with random weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from demo.examples import Prompt, on_demo_model
from demo.run import own_base
from demo.workflow import LOADER
from devtools.graph import to_api
from devtools.layout import ROOT, Host, current_host
from devtools.server import Server
from devtools.workflows import DEMO_FOLDER, DEMO_WORKFLOWS, FOLDER, WORKFLOWS, build

EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
SAVED = sorted((Path(__file__).parent / "saved_workflows").glob("*.json"))
TINY_PACK = Path(__file__).parent / "tiny_pack"
LORAS = ("your_sdxl_lora.safetensors", "sdxl_lightning_8step_lora.safetensors")

TINY_LOADER = "tiny"
TRANSFORMER_SIDE = 320  # the host's PixArt divides by zero at 256 pixels and below
# of a loader of everything or of one part, which of TinyCheckpoint's outputs stands for its first
PARTS = {"CheckpointLoaderSimple": 0, "UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}

each_file = pytest.mark.parametrize("path", [*EXAMPLES, *SAVED], ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the demo model's loader, and the files that the examples name."""
    found = current_host()
    with own_base([TINY_PACK]) as base:
        _furnish(base)
        log = tmp_path_factory.mktemp("log") / "server.log"
        with Server(Host(found.comfyui, found.python, base), log, cpu=True, threads=1) as running:
            yield running


def _furnish(base: Path) -> None:
    Image.effect_noise((256, 256), 60).convert("RGB").save(base / "input" / "example.png")
    (base / "models" / "loras").mkdir(parents=True)
    for name in LORAS:
        save_file(tiny_lora(), base / "models" / "loras" / name)


def tiny_lora() -> dict[str, torch.Tensor]:
    """For one layer of the demo model's U-Net, under the name that trainers give it."""
    layer = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    generator = torch.Generator().manual_seed(0)
    return {
        f"{layer}.lora_up.weight": torch.randn(64, 4, generator=generator),
        f"{layer}.lora_down.weight": torch.randn(4, 64, generator=generator),
        f"{layer}.alpha": torch.tensor(4.0),
    }


def on_tiny_transformer(prompt: Prompt, kind: str) -> Prompt:
    """With a tiny model in place of its files, and as many steps as it takes to prune some."""
    outputs = {number: PARTS[node["class_type"]] for number, node in prompt.items() if node["class_type"] in PARTS}
    kept = {number: node for number, node in prompt.items() if number not in outputs}
    for node in kept.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in outputs:
                node["inputs"][name] = [TINY_LOADER, outputs[value[0]] + value[1]]
        if "Empty" in node["class_type"]:
            node["inputs"] |= {"width": TRANSFORMER_SIDE, "height": TRANSFORMER_SIDE}
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 8
    return {**kept, TINY_LOADER: {"class_type": "TinyCheckpoint", "inputs": {"kind": kind, "seed": 0}}}


def ready(workflow: dict[str, Any], server: Server) -> Prompt:
    """As the interface would queue it, in few steps and small, with what the tests have in place of big files."""
    queued = to_api(workflow, server.get("/object_info"))
    if any(node["class_type"] == "CATPruningApply" for node in queued.values()):
        return on_tiny_transformer(queued, "pixart" if "PixArt" in json.dumps(workflow) else "sd3")
    prompt = on_demo_model(queued, steps=2)
    (loader,) = (number for number, node in prompt.items() if node["class_type"] == LOADER)
    for node in prompt.values():
        if node["class_type"] == "ControlNetLoader":
            node.update(class_type="TinyControlNet", inputs={"model": [loader, 0]})
    if "v1-5" in json.dumps(workflow):
        prompt[loader] = {"class_type": "TinyCheckpoint", "inputs": {"kind": "sd15", "seed": 0}}
    return prompt


@each_file
def test_it_runs_and_prunes(path: Path, server: Server) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    logged = len(server.log())
    prompt = ready(workflow, server)
    outputs = server.run(prompt)["outputs"]
    keys = {"SaveImage": "images", "PreviewImage": "images", "ImageCompare": "b_images"}
    shown = [(number, keys[node["class_type"]]) for number, node in prompt.items() if node["class_type"] in keys]
    assert shown
    for number, key in shown:
        assert len(server.view(outputs[number][key][0])) > 1000
    told = server.log()[logged:]
    # in as few steps as here, samplers may be asked for the same, and the host runs that once
    samplers = len({json.dumps(node["inputs"]) for node in prompt.values() if node["class_type"] == "KSampler"})
    said = [line for line in told.splitlines() if "AT-EDM: kept" in line or "CAT Pruning: pruned" in line]
    assert len(said) == samplers
    assert any("kept 100.0%" not in line and "pruned 0 of" not in line for line in said)
    assert "Traceback" not in told
    assert "lora key not loaded" not in told
    for number, node in prompt.items():
        if node["class_type"] == "ATEDMReport":
            assert len(outputs[number]["atedm_report"][0]["light"]) == 2
            assert "traced" not in outputs[number]["text"][0]


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_a_saved_workflow_means_what_it_meant(path: Path, server: Server) -> None:
    """Values are saved by position: an input that came later must come last, and takes its default."""
    queued = to_api(json.loads(path.read_text(encoding="utf-8")), server.get("/object_info"))
    expected = json.loads((path.parent / "queued" / path.name).read_text(encoding="utf-8"))
    assert queued.keys() == expected.keys()
    for number, node in expected.items():
        assert queued[number]["class_type"] == node["class_type"]
        assert node["inputs"] == {name: queued[number]["inputs"].get(name) for name in node["inputs"]}


def test_there_is_a_saved_workflow_of_every_node() -> None:
    recorded = json.loads((Path(__file__).parent / "node_schemas.json").read_text(encoding="utf-8"))
    saved = [node["type"] for path in SAVED for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]]
    assert set(recorded) <= set(saved)


def test_the_comparison_measures(server: Server) -> None:
    """On the third queue: how fast over three runs of both kinds, how near beside fewer steps, and no warning."""
    path = ROOT / "example_workflows" / "AT-EDM Compare with and without.json"
    logged = len(server.log())
    prompt = ready(json.loads(path.read_text(encoding="utf-8")), server)
    (seed,) = (node for node in prompt.values() if node["class_type"] == "PrimitiveInt")
    (report,) = (number for number, node in prompt.items() if node["class_type"] == "ATEDMReport")
    steps = {node["inputs"]["steps"]: node for node in prompt.values() if node["class_type"] == "KSampler"}
    for node in steps.values():
        node["inputs"]["steps"] = 3  # a run of two has one step after its first
    for value in (11, 12, 13):
        seed["inputs"]["value"] = value
        text = server.run(prompt)["outputs"][report]["text"][0]
    assert "x measured" in text
    assert "result: PSNR" in text
    assert "alternative: PSNR" in text
    assert "WARN" not in server.log()[logged:]
    assert "nothing was pruned: prune_ratio is 0" in server.log()[logged:]


def test_the_comparison_costs_alike_and_stands_first() -> None:
    path = EXAMPLES[0]
    assert path.stem == "AT-EDM Compare with and without"
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    assert [node["type"] for node in nodes].count("ImageCompare") == 2
    steps = [node["widgets_values"][2] for node in nodes if node["type"] == "KSampler"]
    assert steps[:2] == [20, 20]
    assert steps[2] == round(20 * (1 - 0.36)), "what the default saves of SDXL at 1024 px, in the main table"


def test_every_file_that_can_be_fetched_says_from_where() -> None:
    """The user interface offers what it finds in a node's properties."""
    for path in EXAMPLES:
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            named = [one for one in node.get("widgets_values", []) if str(one).endswith((".safetensors", ".ckpt"))]
            offered = {one["name"]: one for one in node["properties"].get("models", [])}
            for name in named:
                if not name.startswith("your_"):
                    assert offered[name]["url"].startswith("https://")
                    assert offered[name]["url"].endswith(".safetensors")
                    assert offered[name]["directory"]


def test_the_files_are_what_the_nodes_are_today(server: Server) -> None:
    """After a new input: `python -m devtools.workflows`."""
    for folder, workflows in ((FOLDER, WORKFLOWS), (DEMO_FOLDER, DEMO_WORKFLOWS)):
        for name, text in build(server.get("/object_info"), workflows).items():
            assert json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) == json.loads(text), name


def test_one_example_needs_no_checkpoint(server: Server) -> None:
    """As it is in its file, but for the number of steps; the loader's pack offers it."""
    (path,) = DEMO_FOLDER.glob("*.json")
    assert server.get("/api/workflow_templates")["at-edm-demo"] == [path.stem]
    prompt = to_api(json.loads(path.read_text(encoding="utf-8")), server.get("/object_info"))
    for node in prompt.values():
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 2
    outputs = server.run(prompt)["outputs"]
    (report,) = (number for number, node in prompt.items() if node["class_type"] == "ATEDMReport")
    assert "result: PSNR" in outputs[report]["text"][0]


def test_the_browser_is_offered_every_example(server: Server) -> None:
    offered = server.get("/api/workflow_templates")["at-edm"]
    assert sorted(offered) == [path.stem for path in EXAMPLES]
    assert server.get_bytes("/api/workflow_templates/at-edm/" + EXAMPLES[0].name.replace(" ", "%20"))
