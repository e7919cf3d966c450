"""Running a transformer on selected tokens only gives what running it on all of them would."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from plain_cat import PlainExecution
from sample_transformers import prompt, shared

from benchmarks.random_transformers import TRANSFORMERS

SIZES = {"square": (34, 34), "wide": (32, 44)}  # PixArt works from 33 latent pixels on
EVERY = list(TRANSFORMERS)


class Compact:
    """One model's calls for the same conditions through the pack's own machinery."""

    def __init__(self, host: InProcessHost, model: Any, latent: tuple[int, int]) -> None:
        self.calls = host.module("patches.dit.call")
        self.families = host.module("patches.dit.families")
        self.model = model
        self.inner = model.model.diffusion_model
        self.family = self.families.family_of(self.inner)
        rows, columns = self.family.grid(self.inner, latent)
        self.tokens = rows * columns
        self.layout = self.family.layout(self.inner, self.tokens)
        self.memory = host.module("patches.dit.kv_cache").CallMemory()

    def call(self, inputs: dict[str, Any], selected: torch.Tensor | None) -> torch.Tensor:
        call = self.calls.TransformerCall(self.memory, self.layout, selected, record_attention=True)
        if selected is None:
            self.memory.attentions.clear()
        options = inputs["transformer_options"]
        if self.family.attend is None:
            options = self.calls.with_override(options, call)
        with torch.inference_mode(), self.calls.attached(self.family, self.inner, call):
            out: torch.Tensor = self.model.model.apply_model(**{**inputs, "transformer_options": options})
        call.finish(self.family.attentions(self.inner))
        assert call.refusal is None
        return out


def inputs_for(
    kind: str, latent: tuple[int, int], *, rows: int = 2, sigma: float = 0.7, seed: int = 5
) -> dict[str, Any]:
    """What the sampler hands to `apply_model`."""
    generator = torch.Generator().manual_seed(seed)
    found = TRANSFORMERS[kind]
    frames = (1,) if found.frames else ()
    text = torch.cat([prompt(kind, seed=row + 1)[0][0] for row in range(rows)])
    given: dict[str, Any] = {
        "x": torch.randn(rows, found.channels, *frames, *latent, generator=generator),
        "t": torch.full((rows,), sigma),
        "c_crossattn": text,
        "transformer_options": {"uuids": [uuid.UUID(int=row) for row in range(rows)], "cond_or_uncond": [1, 0]},
    }
    if kind in ("flux", "chroma"):
        given["guidance"] = torch.full((rows,), 3.5)
    if kind == "qwen_image":
        mask = torch.ones(rows, text.shape[1], dtype=torch.int64)
        mask[0, -4:] = 0
        given["attention_mask"] = mask
    if kind in ("lumina2", "z_image"):
        given["num_tokens"] = text.shape[1]
    if found.pooled is not None:
        given["y"] = torch.randn(rows, found.pooled, generator=torch.Generator().manual_seed(8))
    return given


def some_tokens(tokens: int, keep: int, rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    picked = [torch.randperm(tokens, generator=generator)[:keep].sort().values for _ in range(rows)]
    return torch.stack(picked)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("size", SIZES)
def test_at_the_same_input_any_selected_set_gives_the_full_answer(host: InProcessHost, kind: str, size: str) -> None:
    model, latent = shared(kind), SIZES[size]
    inputs = inputs_for(kind, latent)
    with torch.inference_mode():
        expected = model.model.apply_model(**inputs)
    compact = Compact(host, model, latent)
    assert torch.equal(compact.call(inputs, None), expected)
    for seed, keep in enumerate((1, 7, compact.tokens // 3, compact.tokens)):
        found = compact.call(inputs, some_tokens(compact.tokens, keep, 2, seed))
        assert (found - expected).abs().max() < 1e-6 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("kind", EVERY)
def test_step_after_step_it_equals_carrying_all_tokens(host: InProcessHost, kind: str) -> None:
    model, latent = shared(kind), (38, 34)
    compact = Compact(host, model, latent)
    plain = PlainExecution(model, compact.tokens)
    first = inputs_for(kind, latent)
    compact.call(first, None)
    plain.call(first, None)
    full_moves = 0.0
    for step in range(5):
        inputs = inputs_for(kind, latent, sigma=0.6 - 0.1 * step, seed=20 + step)
        selected = some_tokens(compact.tokens, 5 + 4 * step, 2, step)
        expected = plain.call(inputs, selected)
        found = compact.call(inputs, selected)
        scale = max(1.0, float(expected.abs().max()))
        assert (found - expected).abs().max() < 1e-5 * scale
        with torch.inference_mode():
            full_moves = float((model.model.apply_model(**inputs) - expected).abs().max())
    assert full_moves > 1e-3, "the pruned answer would be the full one anyway, and nothing was tested"


@pytest.mark.parametrize("kind", EVERY)
def test_nothing_stays_on_the_modules(host: InProcessHost, kind: str) -> None:
    model = shared(kind)
    before = {name: set(vars(module)) for name, module in model.model.diffusion_model.named_modules()}
    compact = Compact(host, model, (34, 34))
    inputs = inputs_for(kind, (34, 34))
    compact.call(inputs, None)
    compact.call(inputs, some_tokens(compact.tokens, 9, 2, 0))
    for name, module in model.model.diffusion_model.named_modules():
        assert set(vars(module)) == before[name], name
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name


@pytest.mark.parametrize("kind", EVERY)
def test_only_the_selected_tokens_run_through_the_blocks(host: InProcessHost, kind: str) -> None:
    model = shared(kind)
    compact = Compact(host, model, (34, 34))
    inputs = inputs_for(kind, (34, 34))
    compact.call(inputs, None)
    seen: list[int] = []
    inner = model.model.diffusion_model
    last = inner.get_submodule(compact.family.final)
    handle = last.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].flatten(0, -2).shape[0]))
    try:
        compact.call(inputs, some_tokens(compact.tokens, 9, 2, 0))
    finally:
        handle.remove()
    # what a model of one row for text and image, or one that fills up, carries beside them
    text = 12 if compact.layout.in_one else 0
    text += -text % 32 if kind == "z_image" else 0
    assert seen == [9 + text + compact.layout.filling]
