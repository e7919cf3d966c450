"""Score the photographs' model on combinations it was never trained on: `python demo/photographs/evaluate.py --help`.

Pictures come from ComfyUI's own nodes, as in `demo/evaluate.py`, and are looked at by `check.py`, whose errors on
composed pictures stand beside the score. Needs the folder of work of `train.py`. Writes a JSON and a sheet of pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):  # run as a script: make `demo` importable as a package
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from demo.evaluate import Settings, picture
from demo.host import use_host
from demo.photographs.check import shares
from demo.photographs.scenes import PHOTO_TEMPLATES, compose
from demo.photographs.store import FILE
from demo.photographs.train import SEEDS, pictures
from demo.scenes import caption
from demo.train import HERE, start_log

FIRST = 1000  # held-out pictures from this number on were not seen in training, not even to watch its loss


def sheet(shown: list[np.ndarray], captions: list[str], file: Path, columns: int = 6, cell: int = 176) -> None:
    """All pictures with their captions below in one JPEG."""
    from PIL import Image, ImageDraw, ImageFont

    line = 26
    out = Image.new("RGB", (columns * cell, -(-len(shown) // columns) * (cell + line)), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(10)
    for i, (pixels, text) in enumerate(zip(shown, captions, strict=True)):
        x, y = i % columns * cell, i // columns * (cell + line)
        out.paste(Image.fromarray(pixels).resize((cell - 4, cell - 4), Image.Resampling.LANCZOS), (x + 2, y + 2))
        half = text.rfind(" ", 0, 34) if len(text) > 34 else len(text)
        draw.text((x + 3, y + cell - 2), f"{text[:half]}\n{text[half:].strip()}", (30, 30, 30), font, spacing=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    out.save(file, quality=88)


def psnr(vae: Any, shown: np.ndarray) -> float:
    """Of pictures [B, H, W, 3] uint8 after the autoencoder, over all of them, in dB."""
    import torch

    image = torch.from_numpy(shown).float() / 255
    with torch.inference_mode():
        back = torch.cat([vae.decode(vae.encode(one)).clamp(0, 1) for one in image.split(8)])
    return round(float(-10 * ((back.float() - image) ** 2).mean().log10()), 2)


def evaluate(args: argparse.Namespace, settings: Settings) -> tuple[dict[str, Any], list[np.ndarray], list[str]]:
    """(the report, the pictures, their captions)."""
    from demo.model import load
    from demo.store import DEFAULT_FILE

    catalogue = pictures(args.work)
    composed = [
        compose(catalogue, (SEEDS["held out"], FIRST + i), held_out=True) for i in range(max(settings.count, 256))
    ]
    real = np.stack([one.pixels for one in composed])
    scenes = [one.scene for one in composed]
    parts = load(args.file)
    report: dict[str, Any] = {"autoencoder PSNR": psnr(parts[2], real[:128])}
    report["autoencoder PSNR of the demo's"] = psnr(load(DEFAULT_FILE)[2], real[:128])
    captions = [caption(scene, i, PHOTO_TEMPLATES) for i, scene in enumerate(scenes[: settings.count])]
    made = [picture(parts, text, settings, settings.seed * 100_000 + i) for i, text in enumerate(captions)]
    report["settings"] = vars(settings)
    report["agrees, composed pictures"] = shares([*real], scenes)
    report["agrees, generated pictures"] = shares(made, scenes[: settings.count])
    return report, made, captions


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--work", type=Path, default=HERE / ".train" / "photographs", help="folder of the training")
    parser.add_argument("--out", type=Path, default=FILE.parent / "score", help="no ending: .json and .jpg are added")
    parser.add_argument("--count", type=int, default=96, help="pictures that are made and judged")
    parser.add_argument("--shown", type=int, default=24, help="of them on the sheet")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=4.0)
    args = parser.parse_args()
    use_host()
    import comfy.utils
    import torch

    start_log(logging.INFO)
    comfy.utils.set_progress_bar_enabled(False)
    torch.set_num_threads(1)
    report, made, captions = evaluate(args, Settings(count=args.count, steps=args.steps, cfg=args.cfg))
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    sheet(made[: args.shown], captions[: args.shown], args.out.with_suffix(".jpg"))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
