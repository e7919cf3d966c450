"""The demo's autoencoder: pictures to latents of 1/8 the size and back.

Sits inside a `comfy.sd.VAE` as its first stage model.

Most of the work is done at the latent's own resolution, because that is what a CPU can afford: the encoder begins by
folding 8 x 8 pixels into channels, the decoder ends by unfolding them in two steps with a light refinement between.
Nothing but convolutions, no normalisation: flat areas must come out flat, whatever else is in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu


@dataclass(frozen=True)
class PixelsConfig:
    """Widths of the autoencoder."""

    encoder_width: int = 64
    decoder_width: int = 96
    fine_width: int = 24
    latent_channels: int = 4


class Residual(nn.Module):
    """x + two 3 x 3 convolutions of it, [B, width, H, W] to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(silu(self.first(silu(x))))


class Encoder(nn.Module):
    """[B, 3, H, W] in -1 to 1 -> [B, 4, H / 8, W / 8]."""

    def __init__(self, config: PixelsConfig) -> None:
        super().__init__()
        self.start = nn.Conv2d(3 * 64, config.encoder_width, 3, padding=1)
        self.body = Residual(config.encoder_width)
        self.end = nn.Conv2d(config.encoder_width, config.latent_channels, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        return self.end(silu(self.body(self.start(pixel_unshuffle(picture, 8)))))


class Decoder(nn.Module):
    """[B, 4, h, w] -> [B, 3, 8 h, 8 w], about -1 to 1."""

    def __init__(self, config: PixelsConfig) -> None:
        super().__init__()
        self.start = nn.Conv2d(config.latent_channels, config.decoder_width, 3, padding=1)
        self.body = nn.Sequential(Residual(config.decoder_width), Residual(config.decoder_width))
        self.unfold = nn.Conv2d(config.decoder_width, config.fine_width * 16, 3, padding=1)
        self.fine = Residual(config.fine_width)
        self.end = nn.Conv2d(config.fine_width, 3 * 4, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        coarse = self.body(self.start(latent))
        fine = self.fine(pixel_shuffle(self.unfold(silu(coarse)), 4))
        return pixel_shuffle(self.end(silu(fine)), 2)


class Pixels(nn.Module):
    """Encoder and decoder, as `comfy.sd.VAE` calls them.

    Latents are in SDXL's scale (standard deviation 1 / 0.13025).
    """

    def __init__(self, config: PixelsConfig = PixelsConfig()) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in -1 to 1 -> [B, 4, H / 8, W / 8]."""
        return self.encoder(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """[B, 4, h, w] -> [B, 3, 8 h, 8 w], about -1 to 1."""
        return self.decoder(latents)


@torch.no_grad()
def fold_scale(model: Pixels, mean: Tensor, std: Tensor, scale: float) -> None:
    """Change the weights so that latents of this `mean` [4] and `std` [4] get mean 0 and std 1 / `scale`.

    The decoder's first layer takes the change back; only its border differs, where padding stands for the mean and no
    longer for zero.
    """
    end, start = model.encoder.end, model.decoder.start
    gain = 1 / (std * scale)
    end.weight.mul_(gain[:, None, None, None])
    end.bias.sub_(mean).mul_(gain)
    start.bias.add_((start.weight * mean[None, :, None, None]).sum((1, 2, 3)))
    start.weight.div_(gain[None, :, None, None])


@torch.no_grad()
def widen(narrow: Pixels, config: PixelsConfig) -> Pixels:
    """An autoencoder of at least the same widths that computes the same; its new channels are there to be trained."""
    wide = Pixels(config)
    for name, new in wide.state_dict().items():
        old = narrow.state_dict()[name]
        part = tuple(slice(length) for length in old.shape)
        if old.ndim > 1:
            new[: old.shape[0]] = 0
        new[part] = old
    return wide
