"""A small network that reads from latents what a picture shows, to score generated pictures against their captions.

It is trained, so it errs; how often it errs on composed held-out pictures is part of every score (see `evaluate.py`).
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, silu

from .scenes import PARTS, PhotoScene

log = logging.getLogger("demo.train")


class Judge(nn.Module):
    """Latents of unit size [B, 4, 32, 32] -> for each part of a scene the scores of its words."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = (4, width, 2 * width, 3 * width)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.hidden = nn.Linear(widths[-1] * 16, 256)
        self.heads = nn.ModuleDict({part: nn.Linear(256, len(words)) for part, words in PARTS.items()})

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        x = latents
        for layer in self.layers:
            x = max_pool2d(silu(layer(x)), 2)
        x = silu(self.hidden(nn.functional.dropout(x.flatten(1), 0.2, self.training)))
        return {part: head(x) for part, head in self.heads.items()}


def truth(scenes: Sequence[PhotoScene], part: str) -> Tensor:
    """Number of each scene's word for a part, -1 where it has none."""
    said = [getattr(scene, part) for scene in scenes]
    return torch.tensor([-1 if word is None else PARTS[part].index(word) for word in said])


def train_judge(latents: Tensor, scenes: Sequence[PhotoScene], minutes: float, seed: int = 5) -> Judge:
    """Train by the clock on latents [N, 4, 32, 32] of composed pictures."""
    torch.manual_seed(seed)
    rng, judge = np.random.default_rng(seed), Judge()
    labels = {part: truth(scenes, part) for part in PARTS}
    optimizer = torch.optim.AdamW(judge.parameters(), 1e-3, weight_decay=0.02)
    start, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        done = min(1.0, (time.monotonic() - start) / (60 * minutes))
        optimizer.param_groups[0]["lr"] = 2e-3 * (0.5 + 0.5 * float(np.cos(np.pi * done)))
        chosen = torch.from_numpy(rng.integers(len(latents), size=96))
        optimizer.zero_grad()
        shown = latents[chosen].float()
        # generated latents are a little blurred or noisy, which must not matter
        told = judge(shown + 0.1 * torch.randn_like(shown))
        loss = torch.stack([cross_entropy(told[p], labels[p][chosen], ignore_index=-1) for p in PARTS]).mean()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 200 == 0:
            log.info("judge: step %d, loss %.3f, %.0f %% of the time", step, float(loss.detach()), 100 * done)
    return judge.eval()


@torch.no_grad()
def agreement(judge: Judge, latents: Tensor, scenes: Sequence[PhotoScene]) -> dict[str, float]:
    """Share of pictures in which the judge sees what the scene says, by part, where the scene says it."""
    told, shares = judge(latents.float()), {}
    for part in PARTS:
        true = truth(scenes, part)
        said = true >= 0
        shares[part] = round(float((told[part].argmax(1) == true)[said].float().mean()), 3)
    return shares
