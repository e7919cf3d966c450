"""Second stage of the training: the U-Net and the text encoders together, on latents of drawn scenes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import mse_loss

from .model import DemoConfig
from .optimizer import Orthogonal, is_matrix
from .scenes import TEMPLATES, caption, loosen
from .train_words import teach_words
from .trainee import Trainee, size_vectors

log = logging.getLogger("demo.train")


@dataclass(frozen=True)
class ModelTraining:
    """How long and how the model is trained. The learning rate falls with the time that has passed,

    Not with the steps.
    """

    minutes: float = 92.0
    batch: int = 24  # of each process
    rate: float = 2e-3
    warm_up: int = 200
    orthogonal: bool = True
    weight_decay: float = 0.01
    ema: float = 0.999
    empty: float = 0.1  # share of captions dropped, for classifier-free guidance
    late: float = 0.65  # time steps are drawn as 1000 * u ** late: below 1 means more of the noisy ones
    words_minutes: float = 0.8
    save_minutes: float = 2.0
    seed: int = 2


def optimizers(trainee: Trainee, training: ModelTraining) -> list[torch.optim.Optimizer]:
    """The optimizers for all weights; with `orthogonal` false, Adam for all."""
    matrices, rest = [], []
    for name, weight in trainee.unet.named_parameters():
        (matrices if training.orthogonal and is_matrix(name, weight) else rest).append(weight)
    groups = [{"params": rest}, {"params": list(trainee.text.parameters()), "scale": 0.5}]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, training.rate, betas=(0.9, 0.99), weight_decay=training.weight_decay)
    ]
    if matrices:
        made.append(Orthogonal(matrices, training.rate, weight_decay=training.weight_decay))
    return made


@torch.no_grad()
def validate(trainee: Trainee, latents: Tensor, captions: Sequence[str], seed: int = 9) -> list[float]:
    """Loss on held-out scenes for four bands of noise, least noise first; the same noise every time."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    sizes = size_vectors(trainee.host[0], rng, len(latents))
    out = []
    for band in range(4):
        steps = torch.from_numpy(np.sort(rng.integers(band * 250, band * 250 + 250, len(latents))))
        out.append(float(mse_loss(*trainee.velocity(latents, noise, steps, sizes, list(captions)))))
    return out


@dataclass
class Progress:
    """Where a training stands; it is in the checkpoint, and random numbers follow from it."""

    step: int = 0
    seconds: float = 0.0  # since the learning rate began to fall
    earlier: float = 0.0  # before that, in trainings that this one goes on from


def average_gradients(trainee: Any, seconds: float) -> float:
    """Make the gradients of all processes their mean, and the clock that of the first one; returns that clock."""
    if not dist.is_initialized():
        return seconds
    weights = [p for p in trainee.parameters() if p.grad is not None]
    flat = torch.cat([*(p.grad.reshape(-1) for p in weights), torch.tensor([seconds if dist.get_rank() == 0 else 0.0])])
    dist.all_reduce(flat)
    for p, mean in zip(weights, (flat[:-1] / dist.get_world_size()).split([p.numel() for p in weights]), strict=True):
        p.grad = mean.view_as(p)
    return float(flat[-1])


def same_start(trainee: Any) -> None:
    """Give every process the weights of the first one."""
    if dist.is_initialized():
        for p in trainee.parameters():
            dist.broadcast(p.data, 0)


def train_model(
    config: DemoConfig,
    data: dict[str, Any],
    folder: Path,
    training: ModelTraining,
    until: float | None = None,
    again: bool = False,
) -> None:
    """Train until the minutes are used up, from the checkpoint in `folder` if there is one.

    `again` starts the clock afresh, `until` [s] ends this run early.
    """
    trainee = Trainee(config, training.seed)

    def first() -> None:
        teach_words(trainee, data["scenes"], training.words_minutes, training.seed)

    log.info("model: %.2f M weights in the U-Net", sum(p.numel() for p in trainee.unet.parameters()) / 1e6)
    go_on(
        trainee,
        optimizers(trainee, training),
        folder / "model.pt",
        training,
        lambda rng, progress: backward(trainee, data, rng, training),
        lambda: validate(trainee, data["held_out"][0], [caption(s) for s in data["held_out"][1]]),
        first,
        until=until,
        again=again,
    )


def go_on(
    trainee: Any,
    made: list[torch.optim.Optimizer],
    file: Path,
    training: ModelTraining,
    learn: Callable[[np.random.Generator, Progress], float],
    judge: Callable[[], list[float]],
    first: Callable[[], None] = lambda: None,
    until: float | None = None,
    again: bool = False,
) -> None:
    """Train from the checkpoint `file`, if there is one, until the time is used up; for `train_model`'s other inputs.

    Args:
        trainee: a module with all that is trained.
        made: its optimizers.
        file: the checkpoint.
        training: how long.
        learn: computes the gradients of one batch and returns the loss.
        judge: losses on held-out scenes.
        first: is done before the first step.
        until: see `train_model`.
        again: see `train_model`.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    progress, average = Progress(), None
    if file.exists():
        saved = torch.load(file, weights_only=False)
        trainee.load_state_dict(saved["weights"])
        average = saved["average"]
        for optimizer, state in zip(made, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        progress = Progress(**saved["progress"])
        if again:
            progress = Progress(progress.step, 0.0, progress.earlier + progress.seconds)
    elif rank == 0:
        first()
    same_start(trainee)
    average = average or {k: v.clone() for k, v in trainee.state_dict().items()}
    torch.manual_seed(hash((training.seed, rank, progress.step)))
    rng = np.random.default_rng([training.seed, rank, progress.step])
    log.info("model: from step %d", progress.step)

    start, at_start, saved_at, losses, begun = time.monotonic(), progress.seconds, time.monotonic(), [], progress.step
    while progress.seconds < 60 * training.minutes and (until is None or progress.seconds - at_start < until):
        rate = training.rate * min(1, (progress.step + 1) / training.warm_up)
        rate *= 0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * progress.seconds / (60 * training.minutes)))
        losses.append(learn(rng, progress))
        progress.seconds = average_gradients(trainee, at_start + time.monotonic() - start)
        update(trainee, made, rate)
        decay = min(training.ema, (1 + progress.step) / (10 + progress.step))
        live = trainee.state_dict()
        with torch.no_grad():
            torch._foreach_lerp_([average[k] for k in live], list(live.values()), 1 - decay)
        progress.step += 1
        if rank > 0:
            continue
        if progress.step % 50 == 0:
            speed = (progress.step - begun) / (progress.seconds - at_start)
            left = training.minutes - progress.seconds / 60
            log.info(
                "model: step %d, loss %.4f, %.2f steps/s, %.1f min left",
                progress.step,
                np.mean(losses[-50:]),
                speed,
                left,
            )
        if progress.step % 250 == 0:
            log.info("model: held-out loss by noise %s", [round(v, 4) for v in judge()])
        if time.monotonic() - saved_at > 60 * training.save_minutes:
            save(file, trainee, average, made, progress)
            saved_at = time.monotonic()
    if rank == 0:
        save(file, trainee, average, made, progress)


def save(
    file: Path, trainee: Any, average: dict[str, Tensor], made: list[torch.optim.Optimizer], progress: Progress
) -> None:
    """Write a checkpoint; a kill while writing leaves the last one whole."""
    kept = {
        "weights": trainee.state_dict(),
        "average": average,
        "optimizers": [o.state_dict() for o in made],
        "progress": vars(progress),
    }
    torch.save(kept, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)


def backward(
    trainee: Trainee,
    data: dict[str, Any],
    rng: np.random.Generator,
    training: ModelTraining,
    templates: tuple[str, ...] = TEMPLATES,
    focus: Callable[[Any], Tensor] | None = None,
) -> float:
    """Gradients of one batch, captions made with `templates`; returns the loss.

    `focus` gives the weight [h, w] of each place in the loss, from what a caption says: what the caption does not say
    must not change it, or the model would learn another mean than that of all pictures of the caption.
    """
    chosen = rng.integers(len(data["latents"]), size=training.batch)
    latents = data["latents"][chosen].float()
    scenes = [loosen(data["scenes"][data["shows"][i]], rng) for i in chosen]
    captions = [caption(scene, int(rng.integers(len(templates))), templates) for scene in scenes]
    dropped = rng.random(training.batch) < training.empty
    captions = ["" if drop else c for c, drop in zip(captions, dropped, strict=True)]
    # spread evenly over the batch, which makes the loss steadier
    spread = (np.arange(training.batch) + rng.random(training.batch)) / training.batch
    steps = torch.from_numpy((1000 * spread**training.late).astype(np.int64).clip(0, 999))
    sizes = size_vectors(trainee.host[0], rng, training.batch)
    trainee.zero_grad()
    out, true = trainee.velocity(latents, torch.randn_like(latents), steps, sizes, captions)
    if focus is None:
        loss = mse_loss(out, true)
    else:
        even = torch.ones(latents.shape[2:])
        weights = torch.stack([even if drop else focus(s) for s, drop in zip(scenes, dropped, strict=True)])[:, None]
        loss = (weights * (out - true) ** 2).mean()
    loss.backward()
    return float(loss.detach())


def update(trainee: Any, made: list[torch.optim.Optimizer], rate: float) -> None:
    """One step of all optimizers at learning rate `rate`."""
    torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
    for optimizer in made:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        optimizer.step()
