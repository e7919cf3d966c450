"""Train the demo's diffusion transformer on scenes it draws itself: `python demo/train_transformer.py --help`.

Autoencoder and text encoders are the demo model's and stay as they are. A kill loses two minutes at most: the same
command goes on from the last checkpoint. Half of the image tokens take part in most steps, which makes them twice as
fast; the last ones see all.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: make `demo` importable as a package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from demo.host import use_host
from demo.train import HERE, log, make_latents, start_log
from demo.transformer_store import DEFAULT_FILE, PHOTOGRAPHS, TransformerConfig, read, write


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for latents and checkpoints (default: demo/.train)")
    parser.add_argument("--out", type=Path, help="the file to export to, if not the bundled one")
    parser.add_argument(
        "--photographs", action="store_true", help="on the latents of demo/photographs/train.py, in its folder"
    )
    parser.add_argument("--minutes", type=float, default=48.0, help="time in all, over all runs")
    parser.add_argument("--until", type=float, help="stop this run after so many minutes, to go on later")
    parser.add_argument(
        "--start", type=Path, help="a finished file whose weights a new training begins with, in place of random ones"
    )
    parser.add_argument("--again", action="store_true", help="train a finished model for --minutes more")
    parser.add_argument("--batch", type=int, default=24, help="pictures per step")
    parser.add_argument("--rate", type=float, default=5e-3, help="highest learning rate")
    parser.add_argument("--per-scene", type=int, default=3, help="drawings of each training scene")
    parser.add_argument("--processes", type=int, default=1, help="that train together, each started by hand")
    parser.add_argument("--rank", type=int, default=0, help="which of them this is; the first, 0, writes")
    parser.add_argument("--port", type=int, default=29518, help="a free local port for them to meet at")
    args = parser.parse_args()
    folder, file = (
        (HERE / ".train" / "photographs", PHOTOGRAPHS) if args.photographs else (HERE / ".train", DEFAULT_FILE)
    )
    args.work, args.out = args.work or folder, args.out or file
    start_log(logging.INFO if args.rank == 0 else logging.WARNING)
    use_host()
    train(args)


def train(args: argparse.Namespace) -> None:
    """Latents, training, export: what is there already is gone on from."""
    import torch
    import torch.distributed as dist

    from demo import store
    from demo.model import DemoConfig
    from demo.photographs.scenes import PHOTO_TEMPLATES
    from demo.photographs.store import FILE
    from demo.pixels import Pixels
    from demo.scenes import TEMPLATES, caption
    from demo.train_model import go_on
    from demo.transformer_trainee import TransformerTrainee, TransformerTraining, learn, optimizers, validate

    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    source, templates = (FILE, PHOTO_TEMPLATES) if args.photographs else (store.DEFAULT_FILE, TEMPLATES)
    file = args.work / "latents.pt"
    if not file.exists():
        if args.photographs:
            raise FileNotFoundError(f"no {file}: make it with `python demo/photographs/train.py latents`")
        content = store.read(source)
        pixels = Pixels(DemoConfig.from_dict(content.config).pixels)
        pixels.load_state_dict(content.pixels)
        torch.save(make_latents(pixels, args.per_scene, seed=3), file)
    data = torch.load(file, weights_only=False)
    training = TransformerTraining(minutes=args.minutes, batch=args.batch, rate=args.rate)
    config, saved = TransformerConfig(), args.work / "transformer.pt"
    if args.processes > 1:
        meeting = dist.TCPStore("127.0.0.1", args.port, args.processes, args.rank == 0)
        dist.init_process_group("gloo", store=meeting, rank=args.rank, world_size=args.processes)
    held_out, held_scenes = data["held_out"]
    captions = [caption(scene, 0, templates) for scene in held_scenes]
    trainee = TransformerTrainee(config, training.seed, source)
    if args.start and not saved.exists():
        trainee.dit.load_state_dict({name: weight.float() for name, weight in read(args.start)[1].items()})
        trainee.shut_off_fast_frequencies()
    log.info("transformer: %.2f M weights", sum(p.numel() for p in trainee.parameters()) / 1e6)
    go_on(
        trainee,
        optimizers(trainee, training),
        saved,
        training,
        lambda rng, progress: learn(trainee, data, rng, progress, training, templates),
        lambda: validate(trainee, held_out, captions),
        until=args.until and 60 * args.until,
        again=args.again,
    )
    if args.rank > 0:
        return
    kept = torch.load(saved, weights_only=False)
    weights = {name.removeprefix("dit."): weight for name, weight in kept["average"].items()}
    seconds = kept["progress"]["seconds"] + kept["progress"]["earlier"]
    notes = {"steps": kept["progress"]["step"], "minutes": round(seconds / 60, 1)}
    write(args.out, config, weights, notes)
    log.info("export: %s, %.1f MB, %d steps", args.out.name, args.out.stat().st_size / 1e6, notes["steps"])


if __name__ == "__main__":
    main()
