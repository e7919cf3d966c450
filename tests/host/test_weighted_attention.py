"""Kept tokens count in self-attention for those that they stand for, whatever attention function runs it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from torch.nn.functional import scaled_dot_product_attention
from watching import apply, relative_error, sample, shared_model, transformers

HEADS, SIZE, TOKENS, KEPT = 3, 16, 40, 12


def few_of_many(host: InProcessHost, samples: int = 2) -> Any:
    scores = torch.rand(samples, TOKENS, generator=torch.Generator().manual_seed(0))
    subset = host.module("atedm_core.tokens").TokenSubset.top(scores, KEPT)
    slots = torch.arange(samples * (TOKENS - KEPT)).view(samples, -1) ** 2 % KEPT
    return replace(subset, stand_ins=slots)


def inputs(samples: int = 2, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(samples, KEPT, HEADS * SIZE, generator=generator).to(dtype) for _ in range(3)]


def over_all_members(subset: Any, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The definition: every key as often as tokens that it stands for."""
    split = [x.unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for x in (queries, *map(subset.expand, (keys, values)))]
    return scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("name", ["attention_pytorch", "attention_basic", "attention_split", "attention_sub_quad"])
def test_it_is_attention_over_all_that_the_kept_tokens_stand_for(host: InProcessHost, name: str) -> None:
    from comfy.ldm.modules import attention

    subset, given = few_of_many(host), inputs()
    options = host.module("patches.unet.weighted_attention").WeightedAttention(subset).weigh({})
    out = getattr(attention, name)(*given, HEADS, transformer_options=options)
    torch.testing.assert_close(out, over_all_members(subset, *given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_it_can_be(host: InProcessHost, dtype: torch.dtype) -> None:
    from comfy.ldm.modules import attention

    subset, given = few_of_many(host), inputs(dtype=dtype)
    options = host.module("patches.unet.weighted_attention").WeightedAttention(subset).weigh({})
    out = attention.attention_pytorch(*given, HEADS, transformer_options=options)
    expected = over_all_members(subset, *(x.float() for x in given))
    assert out.dtype == dtype
    assert relative_error(out.float(), expected) < 0.02


def test_only_the_first_attention_over_the_kept_tokens_is_weighted(host: InProcessHost) -> None:
    """Cross-attention may have as many text tokens as tokens were kept; other shapes are another pack's."""
    from comfy.ldm.modules import attention

    subset, given = few_of_many(host), inputs()
    plain = attention.attention_pytorch(*given, HEADS)
    weighted = host.module("patches.unet.weighted_attention").WeightedAttention(subset)
    options = weighted.weigh({})
    more = [torch.cat([x, x], dim=1) for x in given]
    untouched = attention.attention_pytorch(*more, HEADS, transformer_options=options)
    assert torch.equal(untouched, attention.attention_pytorch(*more, HEADS))
    first, second = (attention.attention_pytorch(*given, HEADS, transformer_options=options) for _ in range(2))
    assert not torch.equal(first, plain)
    assert torch.equal(second, plain)


def test_heads_that_cannot_grow_and_masks_stay_as_they_are(host: InProcessHost) -> None:
    from comfy.ldm.modules import attention

    subset = few_of_many(host)
    weigh = host.module("patches.unet.weighted_attention").WeightedAttention(subset).weigh
    large = [torch.randn(2, KEPT, 256) for _ in range(3)]
    assert torch.equal(
        attention.attention_pytorch(*large, 1, transformer_options=weigh({})), attention.attention_pytorch(*large, 1)
    )
    given, mask = inputs(), torch.zeros(KEPT, KEPT)
    assert torch.equal(
        attention.attention_pytorch(*given, HEADS, mask=mask, transformer_options=weigh({})),
        attention.attention_pytorch(*given, HEADS, mask=mask),
    )


def test_another_packs_override_still_runs_the_attention(host: InProcessHost) -> None:
    from comfy.ldm.modules import attention

    seen: list[torch.Size] = []

    def theirs(function: Any, queries: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        seen.append(queries.shape)
        return function(queries, *rest, **named)

    subset, given = few_of_many(host), inputs()
    weighted = host.module("patches.unet.weighted_attention").WeightedAttention(subset)
    out = attention.attention_pytorch(
        *given, HEADS, transformer_options=weighted.weigh({"optimized_attention_override": theirs})
    )
    assert seen == [(2, KEPT, HEADS * (SIZE + 8))]
    torch.testing.assert_close(out, over_all_members(subset, *given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("merge", ["mean", "weight"])
def test_merging_changes_the_picture_and_none_is_the_paper(host: InProcessHost, merge: str) -> None:
    model = shared_model("sdxl")
    full, none = sample(model), sample(apply(host, model, merge="none"))
    merged = sample(apply(host, model, merge=merge))
    assert not torch.equal(merged, none)
    assert relative_error(merged, full) < 2 * relative_error(none, full)


def test_cross_attention_stays_as_it_is_where_a_patch_had_self_attention_run_on_more_tokens(
    host: InProcessHost,
) -> None:
    """Even with as many text tokens as tokens were kept."""
    layer = transformers(shared_model("sdxl"))["input", 4].transformer_blocks[1]
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(2, KEPT, layer.n_heads * layer.d_head, generator=generator)
    text = torch.randn(2, KEPT, layer.attn2.to_k.in_features, generator=generator)
    patches = {
        "attn1_patch": [lambda q, k, v, options: tuple(torch.cat([x, x], dim=1) for x in (q, k, v))],
        "attn1_output_patch": [lambda out, options: out[:, :KEPT]],
    }
    weighted = host.module("patches.unet.weighted_attention").WeightedAttention(few_of_many(host))
    with torch.inference_mode():
        plain, found = (
            layer(hidden.clone(), context=text, transformer_options=options)
            for options in ({"patches": patches}, weighted.weigh({"patches": patches}))
        )
    assert torch.equal(found, plain)
