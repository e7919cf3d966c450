"""Train the demo model from nothing, on scenes it draws itself: `python demo/train.py --help`.

Stages, each kept in the folder of work and skipped when it is there: `pixels` (the autoencoder), `latents` (drawn
scenes through its encoder), `model` (U-Net and text encoders; goes on where it stopped, so it may be killed at any
time), `export` (the file that the loader reads).
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script: make `demo` importable as a package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from demo.host import use_host
from demo.scenes import SIZE, draw, random_placing, split_scenes

HERE = Path(__file__).resolve().parent
log = logging.getLogger("demo.train")


def make_latents(pixels: Any, per_scene: int, seed: int) -> dict[str, Any]:
    """Every training scene `per_scene` times at random placings, and 64 held-out ones, as latents [N, 4, 32,

    32] of unit size.
    """
    import numpy as np
    import torch

    from demo.train_pixels import LATENT_SCALE, to_tensor

    rng = np.random.default_rng(seed)
    scenes, held = split_scenes()
    held = [held[i] for i in rng.permutation(len(held))[:64]]

    @torch.no_grad()
    def encode(chosen: list[Any]) -> torch.Tensor:
        pictures = np.stack([draw(s, random_placing(rng)) for s in chosen])
        return (pixels.encode(to_tensor(pictures)) * LATENT_SCALE).half()

    shows = np.repeat(np.arange(len(scenes)), per_scene)
    latents = torch.empty(len(shows), 4, SIZE // 8, SIZE // 8, dtype=torch.float16)
    for at in range(0, len(shows), 64):
        latents[at : at + 64] = encode([scenes[i] for i in shows[at : at + 64]])
        if at % 3200 == 0:
            log.info("latents: %d of %d", at, len(shows))
    return {"scenes": scenes, "shows": shows, "latents": latents, "held_out": (encode(held).float(), held)}


def run(args: argparse.Namespace) -> None:
    """All stages up to and with `args.stage`."""
    use_host()
    import torch

    torch.set_num_threads(args.threads)
    from demo.pixels import Pixels
    from demo.train_pixels import PixelsTraining, train_pixels

    args.work.mkdir(parents=True, exist_ok=True)
    file = args.work / "pixels.pt"
    if not file.exists():
        train_pixels(split_scenes()[0], file, PixelsTraining(minutes=args.pixels_minutes))
    if args.stage == "pixels":
        return
    pixels = Pixels()
    pixels.load_state_dict(torch.load(file))
    file = args.work / "latents.pt"
    if not file.exists():
        torch.save(make_latents(pixels, args.per_scene, seed=3), file)
    if args.stage == "latents":
        return
    from demo.export import export
    from demo.model import DemoConfig

    if args.stage == "model":
        torch.multiprocessing.spawn(train_worker, (args,), nprocs=args.processes)
    export(DemoConfig(), args.work, args.out)


def train_worker(rank: int, args: argparse.Namespace) -> None:
    """One of `args.processes` processes that train together; one thread each is faster, and less disturbed,

    Than one with two.
    """
    use_host()
    import torch
    import torch.distributed as dist

    from demo.model import DemoConfig
    from demo.train_model import ModelTraining, train_model

    start_log(logging.INFO if rank == 0 else logging.WARNING)
    torch.set_num_threads(1)
    if args.processes > 1:
        store = dist.TCPStore("127.0.0.1", args.port, args.processes, rank == 0)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=args.processes)
    data = torch.load(args.work / "latents.pt", weights_only=False)
    training = ModelTraining(minutes=args.minutes, batch=args.batch, rate=args.rate, orthogonal=not args.adam)
    train_model(DemoConfig(), data, args.work, training, until=args.until and 60 * args.until, again=args.again)


def start_log(level: int) -> None:
    """One line per message, with the time."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    log.setLevel(level)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "stage", nargs="?", default="model", choices=("pixels", "latents", "model", "export"), help="last stage to run"
    )
    parser.add_argument(
        "--work", type=Path, default=HERE / ".train", help="folder for checkpoints (default: demo/.train)"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "model" / "atedm_demo.safetensors", help="the file to export to"
    )
    parser.add_argument("--pixels-minutes", type=float, default=9.0, help="time for the autoencoder")
    parser.add_argument("--minutes", type=float, default=92.0, help="time for the model in all, over all runs")
    parser.add_argument(
        "--again", action="store_true", help="train a finished model for --minutes more, at a new --rate"
    )
    parser.add_argument("--until", type=float, help="stop this run after so many minutes, to go on later")
    parser.add_argument("--per-scene", type=int, default=5, help="drawings of each training scene")
    parser.add_argument(
        "--processes", type=int, default=2, help="processes that train the model together, one thread each"
    )
    parser.add_argument("--port", type=int, default=29517, help="a free local port for them to meet at")
    parser.add_argument("--batch", type=int, default=24, help="pictures per step and process")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--adam", action="store_true", help="Adam for all weights, without orthogonalised steps")
    parser.add_argument("--threads", type=int, default=2, help="threads of the stages before the model")
    args = parser.parse_args()
    start_log(logging.INFO)
    run(args)


if __name__ == "__main__":
    main()
