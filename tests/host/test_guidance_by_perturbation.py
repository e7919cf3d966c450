"""Beside guidance by perturbation (PAG, SEG): both passes over one latent keep the same tokens."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from watching import apply, assert_pruned, shared_model, watched_sample

ATTENDING = {"ranking": "self-attention", "rank_interval": 2}


def blurred(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: Any, mask: Any = None) -> torch.Tensor:
    """Every query is the mean of all, which is what a blur without bounds leaves of them."""
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q.mean(1, keepdim=True).expand_as(q), k, v, extra_options["n_heads"])


def smoothed(model: Any, changed: Any = lambda latent: latent) -> Any:
    """A clone whose prompt runs once more with blurred attention in the middle, on the latent or on a `changed` one."""
    import comfy.samplers
    from comfy.model_patcher import set_model_options_patch_replace

    def guide(given: dict[str, Any]) -> torch.Tensor:
        options = set_model_options_patch_replace(given["model_options"].copy(), blurred, "attn1", "middle", 0)
        again = (given["model"], [given["cond"]], changed(given["input"]), given["sigma"], options)
        (worse,) = comfy.samplers.calc_cond_batch(*again)
        better: torch.Tensor = given["denoised"] + 2.0 * (given["cond_denoised"] - worse)
        return better

    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(guide)
    return clone


def perturbed(host: InProcessHost, model: Any, name: str) -> Any:
    if name == "SEG":
        return smoothed(model)
    return host.call("PerturbedAttentionGuidance", model=model, scale=3.0)[0]


def pairs(calls: list[Any]) -> list[tuple[Any, Any]]:
    """Of every block in every evaluation what the prompt kept in the first pass, and in the second one, the last."""
    found = defaultdict(list)
    for call in calls:
        for event in call.events:
            found[call.sigma, event.block.name].append(event)
    assert min(len(events) for events in found.values()) > 1
    return [
        (next(event for event in events if events[-1].uuids[0] in event.uuids), events[-1]) for events in found.values()
    ]


def agree(first: Any, second: Any) -> bool:
    (uuid,) = second.uuids
    own = first.subset.split(len(first.uuids))[first.uuids.index(uuid)]
    return torch.equal(own.keep_index, second.subset.keep_index) and torch.equal(
        own.source_index, second.subset.source_index
    )


@pytest.mark.parametrize("inputs", [{}, ATTENDING])
@pytest.mark.parametrize(("kind", "name"), [("sdxl", "PAG"), ("sd15", "SEG")])
def test_both_passes_keep_the_same_tokens(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, inputs: dict[str, Any]
) -> None:
    model = perturbed(host, apply(host, shared_model(kind), **inputs), name)
    out, calls = watched_sample(model, kind, cfg=3.0)
    assert_pruned(calls, out)
    assert all(agree(*pair) for pair in pairs(calls))
    monkeypatch.setattr(host.module("patches.unet.same_picture").SamePicture, "kept", lambda *args: None)
    _, calls = watched_sample(model, kind, cfg=3.0)
    assert not all(agree(*pair) for pair in pairs(calls)), "they agree by themselves, so this tests nothing"


def test_a_remembered_ranking_still_serves(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second pass does not count as another picture under the first one's name."""
    ranked = []
    module = host.module("atedm_core.unet.ranking")
    original = module.gwpr
    monkeypatch.setattr(module, "gwpr", lambda *args, **more: ranked.append(1) or original(*args, **more))
    model = perturbed(host, apply(host, shared_model("sdxl"), **ATTENDING), "SEG")
    _, calls = watched_sample(model, steps=4, cfg=1.0)
    assert len(ranked) == len({event.block.name for event in calls.events()}) * 2


def test_another_latent_has_tokens_of_its_own(host: InProcessHost) -> None:
    """As self-attention guidance degrades what the second pass looks at."""
    model = smoothed(apply(host, shared_model("sdxl")), lambda latent: latent.flip(-1))
    _, calls = watched_sample(model, cfg=3.0)
    assert not any(agree(*pair) for pair in pairs(calls) if pair[0].block.level == 1)


def test_what_is_not_known_for_sure_is_chosen_afresh(host: InProcessHost) -> None:
    module = host.module("patches.unet.same_picture")
    tokens = host.module("atedm_core.tokens")
    form = (1, torch.device("cpu"), (2, 2))
    kept = module.Kept(tokens.TokenSubset.top(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), 2), "after first layer")
    latent, memory = torch.zeros(1), module.SamePicture()
    memory.enter(latent)
    memory.note(["a"], "input 4", form, kept)
    assert memory.kept(["a"], "input 4", form, 2) is None, "the first pass itself"
    memory.enter(latent)
    known = memory.kept(["a"], "input 4", form, 2)
    assert torch.equal(known.subset.keep_index, kept.subset.keep_index)
    assert memory.kept(["a", "b"], "input 4", form, 2) is None, "a condition that was not there"
    assert memory.kept(["a"], "input 5", form, 2) is None
    assert memory.kept(["a"], "input 4", (2, *form[1:]), 2) is None, "other samples"
    assert memory.kept(["a"], "input 4", form, 3) is None, "another number of tokens"
    memory.enter(latent.clone())
    assert memory.kept(["a"], "input 4", form, 2) is None, "an equal latent may be another picture"
    memory.note(["a"], "input 4", form, kept)
    memory.note(["a"], "input 4", form, kept)
    memory.enter(memory._latent)
    assert memory.kept(["a"], "input 4", form, 2) is None, "tiles"
