"""The demo's text side: which tokens of CLIP's vocabulary are stored,

And the two tiny encoders in a form that can be trained.

The host's own `SDXLTokenizer` and `SDXLClipModel` are used. Its embedding tables have 49408 rows; a caption needs a few
dozen. Those rows are stored and trained, plus one "unknown" row that stands for every other token, and the tables are
filled from them on loading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .scenes import BACKGROUNDS, OBJECT_COLOURS, PLACES, SHAPES, SIZES, SYNONYMS, TEMPLATES

VOCABULARY = 49408
START, END, PAD_L, PAD_G = 49406, 49407, 49407, 0
LENGTH = 77
TABLE = "transformer.text_model.embeddings.token_embedding.weight"  # inside clip_l and clip_g


@dataclass(frozen=True)
class TextConfig:
    """Size of each of the two encoders. `layers` counts the last one,

    Which the hidden output leaves out as SDXL does.
    """

    width: int = 64
    heads: int = 2
    layers: int = 3

    def host(self) -> dict[str, int]:
        """The entries of a CLIP configuration that differ from the host's own files."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "projection_dim": self.width,
        }


def words(more: Sequence[str] = ()) -> list[str]:
    """Every word that a caption may hold, with those that a model knows beyond the demo's."""
    text = [*more, *SHAPES, *SIZES, *OBJECT_COLOURS, *BACKGROUNDS, *PLACES, *SYNONYMS, *(p[2] for p in PLACES.values())]
    text += [t.replace("{", " ").replace("}", " ").replace(",", " , ") for t in TEMPLATES] + [
        "an",
        "and",
        "of",
        "picture",
        "with",
        ".",
    ]
    names = {"size", "colour", "shape", "place", "background"} - {"background"}
    return sorted({w for line in text for w in line.split()} - names)


def vocabulary(tokenizer: Any, more: Sequence[str] = ()) -> list[int]:
    """The CLIP tokens that are stored, ascending: those of `words(more)` and the special ones."""
    found = {START, END, PAD_L, PAD_G}
    for word in words(more):
        found |= {token for token, _ in tokenizer.clip_l.tokenize_with_weights(word)[0]}
    return sorted(found)


def token_ids(tokenizer: Any, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """CLIP tokens of each caption as the host's CLIPTextEncode makes them: (for clip_l, for clip_g), int64 [B,

    77] each.
    """
    both: dict[str, list[list[int]]] = {"l": [], "g": []}
    for text in captions:
        tokens = tokenizer.tokenize_with_weights(text)
        for key, rows in both.items():
            if len(tokens[key]) != 1:
                raise ValueError(f"caption of more than {LENGTH} tokens: {text!r}")
            rows.append([token for token, _ in tokens[key][0]])
    return torch.tensor(both["l"]), torch.tensor(both["g"])


def compact(ids: Tensor, stored: Tensor) -> Tensor:
    """CLIP tokens -> row numbers of the stored table; the row after the last stored token is the unknown one."""
    at = torch.searchsorted(stored, ids).clamp_(max=len(stored) - 1)
    return torch.where(stored[at] == ids, at, len(stored))


def full_table(rows: Tensor, stored: Tensor) -> Tensor:
    """[stored + 1, width] -> [49408, width], every token that is not stored being the unknown row."""
    table = rows[-1:].expand(VOCABULARY, -1).clone()
    table[stored] = rows[:-1]
    return table


def fill_tables(state: Mapping[str, Tensor], stored: Tensor) -> dict[str, Tensor]:
    """A stored text state dict with its two tables at full length."""
    return {k: full_table(v, stored) if k.endswith(TABLE) else v for k, v in state.items()}


def shrink_tables(clip_model: nn.Module, stored: Tensor) -> None:
    """Give both encoders a table of stored rows + unknown instead of the full one, as training wants it."""
    for encoder in (clip_model.clip_l, clip_model.clip_g):
        width = encoder.transformer.get_input_embeddings().weight.shape[1]
        encoder.transformer.set_input_embeddings(nn.Embedding(len(stored) + 1, width))


def encode(encoder: nn.Module, rows: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """What a host's `SDClipModel` with a compact table gives: (hidden [B, 77, width], pooled [B, width]);

    Can be differentiated.

    The host's own forward adds in place, which autograd refuses. `rows` [B, 77] are from `compact`, `end` [B] is where
    the first end token stands.
    """
    model = encoder.transformer.text_model
    x = nn.functional.embedding(rows, model.embeddings.token_embedding.weight)
    x = x + model.embeddings.position_embedding.weight[: x.shape[1]]
    mask = torch.full((x.shape[1], x.shape[1]), -torch.finfo(torch.float32).max).triu_(1).to(x.device)
    hidden = x
    for i, layer in enumerate(model.encoder.layers):
        x = x + layer.self_attn(layer.layer_norm1(x), mask, attention)
        x = x + layer.mlp(layer.layer_norm2(x))
        if i == len(model.encoder.layers) - 2:
            hidden = x
    at_end = model.final_layer_norm(x[torch.arange(len(x)), end])
    return hidden, encoder.transformer.text_projection(at_end)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Plain attention over [B, N, heads * D], called as the host calls its own.

    For training only: on a CPU the backward pass of the fused kernel would take a third of the whole step.
    """
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    weights = torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2))
    if mask is not None:
        weights = weights + mask.to(weights.dtype)
    out = torch.bmm(weights.softmax(-1).to(v.dtype), v)
    return out.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def encode_both(clip_model: nn.Module, rows_l: Tensor, rows_g: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """SDXL's conditioning: (cross-attention tokens [B, 77, 2 * width], pooled [B, width])."""
    hidden_l, _ = encode(clip_model.clip_l, rows_l, end)
    hidden_g, pooled = encode(clip_model.clip_g, rows_g, end)
    return torch.cat([hidden_l, hidden_g], -1), pooled


def end_of(ids: Tensor) -> Tensor:
    """Where the first end token stands in each row of CLIP tokens: [B, 77] -> [B]."""
    return (ids == END).int().argmax(-1)
