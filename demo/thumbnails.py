"""The pictures of the example workflows in the template browser: what the demo model makes of each.

    python -m demo.thumbnails

Pictures that are there are left alone, so that a stopped call goes on where it was; delete one to have it made anew.
Left the picture, or what the workflow starts from; right how often each of its tokens was kept, or what it ends with.

The demo model is no transformer, so the pictures for CAT Pruning are diagrams: a scene as it should be, and the tokens
that the pack's own selection computes in the first pruned step, while a blur gives way to that scene.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from atedm_core.dit.schedule import CATSchedule
from atedm_core.dit.selection import CATSelection, TokenSelector
from devtools.console import say
from devtools.graph import to_api
from devtools.layout import LOGS, Host, current_host
from devtools.server import Server
from devtools.workflows import FOLDER

from .examples import SIDE, Prompt, on_demo_model
from .run import own_base
from .scenes import draw, parse
from .workflow import RECORD

SHOWN = 512
FINENESS = 2
START = "a large blue circle in the center on a gray background"
PROMPTS = {
    "AT-EDM SDXL text to image": "a large red heart in the center on a yellow background",
    "AT-EDM SDXL image to image": "a large orange circle in the center on a blue background",
    "AT-EDM SDXL hires fix": "a large red circle in the center on a white background",
    "AT-EDM SDXL inpainting": "a large pink heart in the center on a gray background",
    "AT-EDM SDXL with LoRA and ControlNet": "a large purple diamond in the center on a green background",
    "AT-EDM SDXL few steps (Lightning or LCM)": "a large white square in the center on a blue background",
    "AT-EDM SDXL with EasyCache": "a large orange cross in the center on a black background",
    "AT-EDM SD 1.5 text to image": "a large yellow circle in the center on a green background",
    "AT-EDM SDXL with Step Forecast": "a large blue star in the center on a yellow background",
    "AT-EDM Compare with and without": "a large pink star in the center on a blue background",
}
DIAGRAMS = {
    "CAT Pruning SD3 text to image": "a large orange star in the center on a blue background",
    "CAT Pruning PixArt-Sigma text to image": "a large green ring in the center on a white background",
}
DIAGRAM_SIDE = 32  # tokens
DIAGRAM_STEPS = 28
PATCH = 4
WIDEST_BLUR = 16.0
STARTS_FROM_A_PICTURE = ("AT-EDM SDXL image to image", "AT-EDM SDXL inpainting")
MAPPED = ("input 5", "output 4")  # blocks that no schedule spares, at the finer level
COLORS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
TINT = 0.75
HOLE = (64, 64, 192, 192)

Picture = Image.Image


def composed(left: Picture, right: Picture) -> Picture:
    """The left half of one picture and the right half of another, with a line between them."""
    side = SHOWN * FINENESS
    sheet = _squared(left, side)
    sheet.paste(_squared(right, side).crop((side // 2, 0, side, side)), (side // 2, 0))
    draw = ImageDraw.Draw(sheet)
    middle, half = side // 2, FINENESS
    draw.rectangle((middle - half, 0, middle + half - 1, side), "white")
    return sheet.resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)


def _squared(picture: Picture, side: int) -> Picture:
    width, height = picture.size
    edge = min(width, height)
    box = ((width - edge) // 2, (height - edge) // 2, (width + edge) // 2, (height + edge) // 2)
    return picture.convert("RGB").crop(box).resize((side, side), Image.Resampling.BICUBIC)


def _simplified(prompt: Prompt) -> Prompt:
    """Without files that only big models have: LoRAs hand their inputs on, ControlNets are taken out."""
    passed = {"LoraLoader": ("model", "clip"), "LoraLoaderModelOnly": ("model",)}
    passed["ControlNetApplyAdvanced"] = ("positive", "negative")
    around = {
        (number, slot): node["inputs"][name]
        for number, node in prompt.items()
        for slot, name in enumerate(passed.get(node["class_type"], ()))
    }
    dropped = {*passed, "ControlNetLoader", "Canny"}
    unused = {"LoadImage"} if any(node["class_type"] == "ControlNetLoader" for node in prompt.values()) else set()
    kept = {number: node for number, node in prompt.items() if node["class_type"] not in dropped | unused}
    for node in kept.values():
        for name, value in node["inputs"].items():
            while isinstance(value, list) and tuple(value) in around:
                value = around[tuple(value)]
            node["inputs"][name] = value
    return kept


def _recorded(prompt: Prompt, name: str) -> Prompt:
    """With the model of the last sampler recorded on its way there, under a name that no other workflow has."""
    sampler = prompt[max((number for number, node in prompt.items() if node["class_type"] == "KSampler"), key=int)]
    inputs = {"model": sampler["inputs"]["model"], "name": name, "width": SIDE, "height": SIDE}
    sampler["inputs"]["model"] = ["record", 0]
    return {**prompt, "record": {"class_type": RECORD, "inputs": inputs}}


def _pictures(server: Server, prompt: Prompt) -> list[Picture]:
    """Every picture that was saved, previewed or compared, in the order of the nodes."""
    outputs: Mapping[str, Any] = server.run(prompt)["outputs"]
    kinds = {"SaveImage": ("images",), "PreviewImage": ("images",), "ImageCompare": ("a_images", "b_images")}
    shown = sorted((number for number in prompt if prompt[number]["class_type"] in kinds), key=int)
    found = [outputs[number][key][0] for number in shown for key in kinds[prompt[number]["class_type"]]]
    return [Image.open(io.BytesIO(server.view(one))).convert("RGB") for one in found]


def _map(server: Server, name: str, picture: Picture) -> Picture:
    """How often tokens were kept in the recorded run, over the picture: violet never, yellow always."""
    record = json.loads((server.host.base / "output" / "recorded" / f"{name}.json").read_text(encoding="utf-8"))
    shares = [np.reshape(block["kept_share"], block["grid"]) for block in record["blocks"] if block["name"] in MAPPED]
    return _tinted(np.mean(shares, axis=0), picture)


def _tinted(share: np.ndarray, picture: Picture) -> Picture:
    stops = np.linspace(0.0, 1.0, len(COLORS))
    channels = [np.interp(share, stops, [color[i] for color in COLORS]) for i in range(3)]
    tint = Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))
    gray = picture.convert("L").convert("RGB")
    return Image.blend(gray, tint.resize(picture.size, Image.Resampling.NEAREST), TINT)


def _prepare_start(server: Server, text_to_image: Prompt) -> Picture:
    """The picture that image-to-image and inpainting start from."""
    (start,) = _pictures(server, on_demo_model(text_to_image, (START, ""), 20))
    start.save(server.host.base / "input" / "example.png")
    return start


def _with_hole(picture: Picture) -> Picture:
    """The picture with a mask as the mask editor paints it: transparent, the colours underneath as they were."""
    opacity = Image.new("L", picture.size, 255)
    opacity.paste(0, HOLE)
    masked = picture.convert("RGBA")
    masked.putalpha(opacity)
    return masked


def draw_diagram(caption: str) -> Picture:
    """CAT Pruning on a scene: yellow tokens are computed in the first pruned step, violet ones keep what they had.

    A token's noise is what a denoiser would predict that sees the scene through a blur as wide as the noise is strong:
    it settles at once where the scene is flat, and late along its edges.
    """
    picture = Image.fromarray(draw(parse(caption)))
    fine = picture.resize((PATCH * DIAGRAM_SIDE, PATCH * DIAGRAM_SIDE), Image.Resampling.BOX)
    selector = TokenSelector(CATSelection(), (DIAGRAM_SIDE, DIAGRAM_SIDE))
    for step in range(CATSchedule().warmup_steps(DIAGRAM_STEPS)):
        blurred = fine.filter(ImageFilter.GaussianBlur(WIDEST_BLUR * (1.0 - step / DIAGRAM_STEPS)))
        pixels = torch.from_numpy(np.asarray(blurred, np.float32) / 127.5 - 1.0)
        patches = pixels.unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH)
        selector.observe(-patches.flatten(0, 1).flatten(1).unsqueeze(0), full=True)
    computed = np.zeros(DIAGRAM_SIDE**2)
    computed[selector.choose()[0].numpy()] = 1.0
    return composed(picture, _tinted(computed.reshape(DIAGRAM_SIDE, DIAGRAM_SIDE), picture))


def make_thumbnails(
    server: Server, files: Mapping[str, Mapping[str, Any]], wanted: Sequence[str]
) -> Iterator[tuple[str, Picture]]:
    """(name, picture) of every wanted workflow, as they are made."""
    definitions = server.get("/object_info")
    prompts = {name: _simplified(to_api(file, definitions)) for name, file in files.items()}
    start = _prepare_start(server, prompts["AT-EDM SDXL text to image"])
    for number, name in enumerate(wanted, 1):
        prompt = prompts[name]
        say(f"  {number} of {len(wanted)}: {name}")
        if name == "AT-EDM SDXL inpainting":
            _with_hole(start).save(server.host.base / "input" / "example.png")
        ready = _recorded(on_demo_model(prompt, (PROMPTS[name], " "), 20), name)
        pictures = _pictures(server, ready)
        if name in STARTS_FROM_A_PICTURE:
            yield name, composed(start, pictures[-1])
        elif len(pictures) > 1:
            yield name, composed(pictures[0], pictures[1])
        else:
            yield name, composed(pictures[0], _map(server, name, pictures[0]))


def main() -> None:
    """Write the pictures that are missing beside the workflows."""
    files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
    wanted = [name for name in files if not (FOLDER / f"{name}.jpg").exists()]
    for name in [name for name in wanted if name in DIAGRAMS]:
        wanted.remove(name)
        _keep(draw_diagram(DIAGRAMS[name]), name)
    if not wanted:
        return
    found = current_host()
    with (
        own_base(()) as base,
        Server(Host(found.comfyui, found.python, base), LOGS / "thumbnails-server.log", cpu=True, threads=1) as server,
    ):
        for name, picture in make_thumbnails(server, files, wanted):
            _keep(picture, name)


def _keep(picture: Picture, name: str) -> None:
    picture.save(FOLDER / f"{name}.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
