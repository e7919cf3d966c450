"""A minute before the model's training: the text encoders learn to tell the parts of a scene from its caption.

With that behind them the U-Net has something to hold on to from its first step, which saves hundreds of its dear steps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from . import text
from .scenes import BACKGROUNDS, OBJECT_COLOURS, PLACES, SHAPES, SIZES, TEMPLATES, caption, loosen
from .trainee import Trainee

log = logging.getLogger("demo.train")
PARTS = {
    "shape": SHAPES,
    "colour": OBJECT_COLOURS,
    "place": tuple(PLACES),
    "size": tuple(SIZES),
    "background": BACKGROUNDS,
}


def teach_words(
    trainee: Trainee,
    scenes: Sequence[Any],
    minutes: float,
    seed: int,
    all_parts: Mapping[str, Sequence[str]] = PARTS,
    templates: tuple[str, ...] = TEMPLATES,
) -> float:
    """Let the text encoders tell the parts of a scene from its caption before any picture is seen;

    Returns the last accuracy.
    """
    rng = np.random.default_rng(seed)
    width = trainee.text.clip_l.transformer.text_projection.weight.shape[0]
    heads = nn.ModuleList(nn.Linear(width, sum(len(v) + 1 for v in all_parts.values())) for _ in range(3))
    optimizer = torch.optim.AdamW(
        [*trainee.text.parameters(), *heads.parameters()], 1e-3, betas=(0.9, 0.98), weight_decay=0.01
    )
    start, step, share = time.monotonic(), 0, 0.0
    while time.monotonic() - start < 60 * minutes:
        chosen = [loosen(scenes[i], rng) for i in rng.integers(len(scenes), size=128)]
        rows_l, rows_g, end = trainee.captions(
            [caption(s, int(rng.integers(len(templates))), templates) for s in chosen]
        )
        rows_l, rows_g = rows_l[:, :24], rows_g[:, :24]  # a causal encoder cannot see the padding behind
        unknown = torch.from_numpy(rng.random(rows_l.shape) < 0.01)
        rows_l, rows_g = (torch.where(unknown, len(trainee.captions.stored), r) for r in (rows_l, rows_g))
        hidden_l, _ = text.encode(trainee.text.clip_l, rows_l, end)
        hidden_g, pooled = text.encode(trainee.text.clip_g, rows_g, end)
        at = torch.arange(len(end))
        losses, hits = [], []
        for head, said in zip(heads, (pooled, hidden_l[at, end], hidden_g[at, end]), strict=True):
            parts = head(said).split([len(v) + 1 for v in all_parts.values()], 1)
            for (name, values), logits in zip(all_parts.items(), parts, strict=True):
                truth = torch.tensor([(*values, None).index(getattr(s, name)) for s in chosen])
                losses.append(cross_entropy(logits, truth))
                hits.append((logits.argmax(1) == truth).float().mean())
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        step, share = step + 1, float(torch.stack(hits).mean())
        if step % 50 == 0:
            log.info("words: step %d, %.1f %% of the parts read right", step, 100 * share)
    return share
