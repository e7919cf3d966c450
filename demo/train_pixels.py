"""First stage of the training: the autoencoder, on random crops of drawn scenes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from .pixels import Pixels, fold_scale
from .scenes import SIZE, Scene, draw, random_placing

log = logging.getLogger("demo.train")
Pick = Callable[[np.random.Generator], np.ndarray]  # gives a picture, uint8 [SIZE, SIZE, 3]
LATENT_SCALE = 0.13025  # comfy.latent_formats.SDXL multiplies by it


@dataclass(frozen=True)
class PixelsTraining:
    """How long and how the autoencoder is trained."""

    minutes: float = 8.0
    batch: int = 24
    crop: int = 128
    rate: float = 2e-3
    latent_noise: float = 0.06
    seed: int = 1


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def crops(pick: Pick, rng: np.random.Generator, training: PixelsTraining) -> Tensor:
    """A batch of crops, most of which show some of the object: [B, 3, crop, crop]."""
    out = np.empty((training.batch, training.crop, training.crop, 3), np.uint8)
    room = SIZE - training.crop
    for i in range(training.batch):
        picture = pick(rng)
        # the crop is placed freely, not on the grid of 8, so that every alignment of an edge with the grid is seen
        x, y = rng.integers(0, room + 1, 2)
        out[i] = picture[y : y + training.crop, x : x + training.crop]
    return to_tensor(out)


def loss_of(model: Pixels, pictures: Tensor, noise: float, pull_weight: float = 0.01) -> Tensor:
    """Reconstruction from slightly noisy latents, and a pull towards small latents so that the noise counts."""
    latents = model.encode(pictures)
    back = model.decode(latents + noise * torch.randn_like(latents))
    pull = (latents.mean((0, 2, 3)) ** 2).mean() + ((latents.var((0, 2, 3)) - 1) ** 2).mean()
    return mse_loss(back, pictures) + 0.2 * l1_loss(back, pictures) + pull_weight * pull


@torch.no_grad()
def measure(model: Pixels, pick: Pick, rng: np.random.Generator, count: int = 64) -> tuple[float, Tensor, Tensor]:
    """(PSNR in dB over whole pictures, latent mean [4], latent std [4])."""
    pictures = to_tensor(np.stack([pick(rng) for _ in range(count)]))
    latents = model.encode(pictures)
    error = mse_loss(model.decode(latents).clamp(-1, 1), pictures)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return float(10 * torch.log10(4 / error)), mean, std


def train_pixels(scenes: list[Scene], file: Path, training: PixelsTraining = PixelsTraining()) -> Pixels:
    """Train on drawn scenes by the clock, scale the latents, save the weights to `file`."""

    def pick(rng: np.random.Generator) -> np.ndarray:
        return draw(scenes[rng.integers(len(scenes))], random_placing(rng))

    torch.manual_seed(training.seed)
    return train_on(Pixels(), pick, pick, file, training)


def train_on(
    model: Pixels,
    pick: Pick,
    pick_held_out: Pick,
    file: Path,
    training: PixelsTraining,
    *,
    decoder_only: bool = False,
) -> Pixels:
    """Train `model` by the clock on crops of what `pick` gives, scale the latents, save the weights to `file`.

    With `decoder_only` the encoder stays, and so do all latents; they have their scale already.
    """
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    model = model.to(memory_format=torch.channels_last)
    model.encoder.requires_grad_(not decoder_only)
    noise, groups = (
        training.latent_noise,
        [{"params": [p for p in model.parameters() if p.requires_grad], "scale": 1.0}],
    )
    if decoder_only:  # its first layer has taken the latents' scale into its weights
        noise, first = noise / LATENT_SCALE, [*model.decoder.start.parameters()]
        rest = [p for name, p in model.decoder.named_parameters() if not name.startswith("start.")]
        groups = [{"params": rest, "scale": 1.0}, {"params": first, "scale": LATENT_SCALE}]
    optimizer = torch.optim.AdamW(groups, training.rate, betas=(0.9, 0.99), weight_decay=0)
    start, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        done = min(1.0, (time.monotonic() - start) / (60 * training.minutes))
        for group in optimizer.param_groups:
            rate = training.rate * min(1, (step + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * done)) + 1e-6
            group["lr"] = rate * group["scale"]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=done < 0.75):
            pictures = crops(pick, rng, training).to(memory_format=torch.channels_last)
            loss = loss_of(model, pictures, noise, 0.0 if decoder_only else 0.01)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            log.info("pixels: step %d, loss %.5f, %.0f %% of the time", step, float(loss.detach()), 100 * done)
        if step % 400 == 0:
            log.info(
                "pixels: PSNR %.1f dB, latent mean %s std %s",
                *_readable(measure(model, pick_held_out, np.random.default_rng(0), 24)),
            )
            torch.save(model.state_dict(), file.with_suffix(".part"))
    if not decoder_only:
        _, mean, std = measure(model, pick, rng, 256)
        fold_scale(model, mean, std, LATENT_SCALE)
    log.info(
        "pixels: done, PSNR %.1f dB, latent mean %s std %s",
        *_readable(measure(model, pick_held_out, np.random.default_rng(0), 128)),
    )
    torch.save(model.state_dict(), file)
    return model


def _readable(measured: tuple[float, Tensor, Tensor]) -> tuple[float, list[float], list[float]]:
    psnr, mean, std = measured
    return psnr, [round(v, 3) for v in mean.tolist()], [round(v, 3) for v in std.tolist()]
