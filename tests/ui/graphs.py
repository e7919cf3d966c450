"""Graphs that more than one test builds in the frontend."""

from __future__ import annotations

import json
from pathlib import Path

from frontend import Frontend
from PIL import Image

from devtools.layout import ROOT

TEMPLATES = sorted((ROOT / "example_workflows").glob("*.json"))
# Where a server looks for what a loader's first input names.
FOLDERS = {
    "CheckpointLoaderSimple": "models/checkpoints",
    "CLIPLoader": "models/text_encoders",
    "ControlNetLoader": "models/controlnet",
    "LoadImage": "input",
    "LoraLoader": "models/loras",
    "LoraLoaderModelOnly": "models/loras",
    "UNETLoader": "models/diffusion_models",
    "VAELoader": "models/vae",
}

FINISHED = """() => { const seen = window.seen ??= []; if (!window.listening) { window.listening = true;
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
    app.api.addEventListener(kind, (event) => seen.push([kind, event.detail])) } seen.length = 0 }"""


def provide_template_files(base: Path) -> None:
    """Files of the names that the templates ask for, as a user has them. They are only chosen, never loaded."""
    for template in TEMPLATES:
        for node in json.loads(template.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] not in FOLDERS:
                continue
            target = base / FOLDERS[node["type"]] / node["widgets_values"][0]
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".png":
                Image.new("RGB", (64, 64), "teal").save(target)
            else:
                target.touch()


def demo_graph(ui: Frontend, ratio: float = 0.4) -> dict[str, int]:
    """The demo model with everything of ours before the sampler, and a preview."""
    places = {
        "ATEDMDemoLoader": (20, 40),
        "ATEDMSchedule": (20, 260),
        "ATEDMApply": (380, 40),
        "CLIPTextEncode": (400, 460),
        "EmptyLatentImage": (400, 720),
        "KSampler": (860, 40),
        "VAEDecode": (860, 420),
        "PreviewImage": (1180, 40),
    }
    node = {kind: ui.add(kind, x, y) for kind, (x, y) in places.items()}
    ui.set(node["ATEDMApply"], "prune_ratio", ratio)
    ui.set(node["CLIPTextEncode"], "text", "a large red circle in the upper left on a blue background")
    for name in ("width", "height"):
        ui.set(node["EmptyLatentImage"], name, 256)
    for name, value in {"steps": 4, "cfg": 4.0, "seed": 7, "scheduler": "normal"}.items():
        ui.set(node["KSampler"], name, value)
    for source, output, target, name in (
        ("ATEDMDemoLoader", 0, "ATEDMApply", "model"),
        ("ATEDMSchedule", 0, "ATEDMApply", "schedule"),
        ("ATEDMDemoLoader", 1, "CLIPTextEncode", "clip"),
        ("ATEDMApply", 0, "KSampler", "model"),
        ("CLIPTextEncode", 0, "KSampler", "positive"),
        ("CLIPTextEncode", 0, "KSampler", "negative"),
        ("EmptyLatentImage", 0, "KSampler", "latent_image"),
        ("KSampler", 0, "VAEDecode", "samples"),
        ("ATEDMDemoLoader", 2, "VAEDecode", "vae"),
        ("VAEDecode", 0, "PreviewImage", "images"),
    ):
        ui.connect(node[source], node[target], name, output)
    return node


def run_and_wait(ui: Frontend) -> None:
    """Press the run button; the run must succeed."""
    ui.js(FINISHED)
    ui.page.get_by_test_id("queue-button").click()
    ui.wait("() => window.seen.length > 0")
    assert [kind for kind, _ in ui.js("() => window.seen")] == ["execution_success"]
