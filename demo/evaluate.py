"""Score the demo model on captions it was never trained on, through ComfyUI's own nodes:

`python demo/evaluate.py --help`.

Every picture comes from CLIPTextEncode, KSampler and VAEDecode called in this process, and is judged by `demo.check`.
Writes a JSON with the score and a sheet of pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):  # run as a script: make `demo` importable as a package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from demo.check import judge, see
from demo.host import use_host
from demo.scenes import SIZE, Scene, caption, split_scenes
from demo.store import DEFAULT_FILE

PARTS = ("right", "shape", "colour", "place", "size", "background", "clean")


@dataclass(frozen=True)
class Settings:
    """How the pictures are made."""

    count: int = 200
    steps: int = 20
    cfg: float = 4.0
    sampler: str = "euler"
    scheduler: str = "normal"
    seed: int = 1
    width: int = SIZE
    height: int = SIZE


def chosen_scenes(count: int, seed: int, trained: bool = False) -> list[Scene]:
    """`count` scenes at random, held out from training unless `trained`; the combinations come evenly."""
    scenes = split_scenes()[0 if trained else 1]
    order = np.random.default_rng(seed).permutation(len(scenes))
    return [scenes[order[i % len(order)]] for i in range(count)]


def picture(parts: tuple[Any, Any, Any], text: str, settings: Settings, seed: int) -> np.ndarray:
    """One picture, uint8 [H, W, 3], as the host's nodes make it from MODEL, CLIP and VAE."""
    import torch

    import nodes

    model, clip, vae = parts
    with torch.inference_mode():
        positive = nodes.CLIPTextEncode().encode(clip, text)[0]
        negative = nodes.CLIPTextEncode().encode(clip, "")[0]
        latent = nodes.EmptyLatentImage().generate(settings.width, settings.height, 1)[0]
        how = (settings.steps, settings.cfg, settings.sampler, settings.scheduler)
        latent = nodes.KSampler().sample(model, seed, *how, positive, negative, latent)[0]
        image = nodes.VAEDecode().decode(vae, latent)[0][0]
    return (image.clamp(0, 1) * 255).round().byte().numpy()


def sheet(pictures: list[np.ndarray], marks: list[bool], file: Path, columns: int = 10, cell: int = 96) -> None:
    """All pictures in one PNG; a wrong one has a red frame."""
    from PIL import Image

    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * cell, rows * cell), "white")
    for i, (pixels, good) in enumerate(zip(pictures, marks, strict=True)):
        frame = Image.new("RGB", (cell - 2, cell - 2), (60, 60, 60) if good else (255, 0, 0))
        frame.paste(Image.fromarray(pixels).resize((cell - 8, cell - 8)), (3, 3))
        out.paste(frame, (i % columns * cell + 1, i // columns * cell + 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    out.save(file)


def evaluate(
    file: Path, settings: Settings, trained: bool = False
) -> tuple[dict[str, Any], list[np.ndarray], list[bool]]:
    """(the report, the pictures, which of them are right)."""
    from demo.model import load

    parts, start = load(file), time.monotonic()
    pictures, verdicts, wrong = [], [], []
    for i, scene in enumerate(chosen_scenes(settings.count, settings.seed, trained)):
        text = caption(scene, i)
        pictures.append(picture(parts, text, settings, settings.seed * 100_000 + i))
        verdicts.append(judge(pictures[-1], scene))
        if not verdicts[-1]["right"]:
            wrong.append({"number": i, "caption": text, "seen": asdict(see(pictures[-1]))})
    report = {
        "settings": asdict(settings),
        "captions": "trained" if trained else "held out",
        "score": {part: round(sum(v[part] for v in verdicts) / len(verdicts), 4) for part in PARTS},
        "seconds": round(time.monotonic() - start, 1),
        "wrong": wrong,
    }
    return report, pictures, [v["right"] for v in verdicts]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=DEFAULT_FILE)
    parser.add_argument(
        "--out", type=Path, default=Path("demo-score"), help="where to write, without ending: .json and .png are added"
    )
    parser.add_argument("--trained", action="store_true", help="captions that were trained on, for comparison")
    parser.add_argument("--threads", type=int, default=1)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    args = parser.parse_args()
    use_host()
    import comfy.utils
    import torch

    comfy.utils.set_progress_bar_enabled(False)
    torch.set_num_threads(args.threads)
    settings = Settings(**{name: getattr(args, name) for name in asdict(Settings())})
    report, pictures, marks = evaluate(args.file, settings, args.trained)
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    sheet(pictures, marks, args.out.with_suffix(".png"))
    print(json.dumps(report["score"]))


if __name__ == "__main__":
    main()
