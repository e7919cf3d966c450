"""The closed formula against what torch counts on the host's own graphs, at full size, on the meta device.

Nothing is computed and no weight exists there: only shapes travel, which is all that counting needs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from in_process import InProcessHost
from torch.utils.flop_counter import FlopCounterMode
from watching import apply, layer_tokens, shared_model, transformers

_COMMON: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "use_checkpoint": False,
}
_THREE_LEVELS: dict[str, Any] = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "context_dim": 2048,
    "num_head_channels": 64,
}
_FOUR_LEVELS: dict[str, Any] = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}
# as in ComfyUI's model_detection
FULL_SIZE: dict[str, dict[str, Any]] = {
    "sdxl": {
        **_THREE_LEVELS,
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
    },
    "ssd1b": {
        **_THREE_LEVELS,
        "transformer_depth": [0, 0, 2, 2, 4, 4],
        "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
        "transformer_depth_middle": -1,
    },
    "vega": {
        **_THREE_LEVELS,
        "transformer_depth": [0, 0, 1, 1, 2, 2],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "transformer_depth_middle": -1,
    },
    "refiner": {
        **_FOUR_LEVELS,
        "model_channels": 384,
        "num_classes": "sequential",
        "adm_in_channels": 2560,
        "context_dim": 1280,
        "num_head_channels": 64,
        "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
        "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
        "transformer_depth_middle": 4,
    },
    "sd15": {**_FOUR_LEVELS, "context_dim": 768, "num_heads": 8, "use_linear_in_transformer": False},
    "sd2": {**_FOUR_LEVELS, "context_dim": 1024, "num_head_channels": 64},
}
SIZES = [(128, 128), (33, 25)]
SDXL_FULL = 6.761e12
SDXL_PRUNED = 4.065e12
SDXL_PRUNED_AND_WEIGHTED = 4.0735e12


@functools.cache
def full_size(kind: str) -> Any:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(device="meta", dtype=torch.float32, **{**_COMMON, **FULL_SIZE[kind]})


def forward(unet: Any, latent: tuple[int, int], tokens: int = 77, options: dict[str, Any] | None = None) -> None:
    """One pass for one sample."""
    height, width = latent
    (first, *_) = transformers(_Holder(unet)).values()
    context = torch.empty(1, tokens, first.transformer_blocks[0].attn2.to_k.in_features, device="meta")
    y = None if unet.num_classes is None else torch.empty(1, unet.label_emb[0][0].in_features, device="meta")
    x = torch.empty(1, 4, height, width, device="meta")
    with torch.inference_mode():
        unet(x, torch.empty(1, device="meta"), context, y, transformer_options={} if options is None else options)


def counted(unet: Any, *args: Any, **kwargs: Any) -> FlopCounterMode:
    with FlopCounterMode(display=False, mods=unet) as counter:
        forward(unet, *args, **kwargs)
    return counter


@functools.cache
def full_flops(kind: str, latent: tuple[int, int]) -> int:
    total: int = counted(full_size(kind), latent).get_total_flops()
    return total


class _Holder:
    """As much of a MODEL as reading a U-Net's structure takes."""

    def __init__(self, unet: Any) -> None:
        self.model = self
        self.diffusion_model = unet

    def get_model_object(self, name: str) -> Any:
        return getattr(self, name)


def structure_of(host: InProcessHost, unet: Any) -> Any:
    module = host.module("patches.unet.structure")
    return module.describe_unet(module.supported_unet(_Holder(unet)))


@pytest.mark.parametrize(
    ("kind", "latent"),
    [*((kind, size) for kind in FULL_SIZE for size in SIZES), ("sdxl", (104, 152)), ("sd15", (64, 64))],
)
def test_full_pass(host: InProcessHost, kind: str, latent: tuple[int, int]) -> None:
    unet = full_size(kind)
    unet_flops = host.module("atedm_core.unet.flops").unet_flops
    structure = structure_of(host, unet)
    expected = full_flops(kind, latent)
    assert expected > 1e10
    assert unet_flops(structure, latent) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("tokens", [77, 154, 231])
def test_longer_prompts(host: InProcessHost, tokens: int) -> None:
    unet = full_size("sdxl")
    expected = counted(unet, (64, 64), tokens).get_total_flops()
    found = host.module("atedm_core.unet.flops").unet_flops(structure_of(host, unet), (64, 64), context_tokens=tokens)
    assert found == pytest.approx(expected, rel=0.01)


def test_sdxl_at_1024_pixels_costs_what_the_paper_says(host: InProcessHost) -> None:
    cost = host.module("atedm_core.unet.flops")
    structure = structure_of(host, full_size("sdxl"))
    assert cost.unet_flops(structure, (128, 128)) == pytest.approx(SDXL_FULL, rel=2e-4)
    assert cost.unet_flops(structure, (128, 128), 0.63) == pytest.approx(SDXL_PRUNED, rel=2e-4)


@contextmanager
def no_ranking(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tokens are kept in grid order and filled in with a change as it is: counted is the model's own work alone."""
    module = host.module("patches.unet.pruning_pass")
    recovery = host.module("atedm_core.unet.recovery")
    subset = host.module("atedm_core.tokens").TokenSubset

    def no_scores(settings: Any, states: Any, keep: int, grid: Any, order: Any) -> torch.Tensor:
        rows: torch.Tensor = states.rows[..., :1]
        return rows.transpose(1, 2)

    def first_tokens(settings: Any, per_head: torch.Tensor, keep: int, *rest: Any) -> Any:
        order = torch.arange(per_head.shape[-1], device=per_head.device).expand(per_head.shape[0], -1)
        return subset(order[:, :keep], order[:, keep:])

    with monkeypatch.context() as patch:
        patch.setattr(module, "rank_states", no_scores)
        patch.setattr(module, "select_tokens", first_tokens)
        patch.setattr(module, "choose_stand_ins", lambda settings, chosen, *rest: chosen)
        patch.setattr(
            recovery, "regress_changes", lambda chosen, before, entered, change, states: chosen.expand(change)
        )
        yield


def run_options(host: InProcessHost, structure: Any, ratio: float, **settings: Any) -> dict[str, Any]:
    """What ComfyUI hands to a U-Net that AT-EDM acts on, past the early phase."""
    from comfy.ldm.modules.attention import SpatialTransformer

    run = host.module("patches.unet.run")
    schedule = host.module("atedm_core.unet.schedule").DSAPSchedule(prune_ratio=ratio, early_percent=0.0)
    chosen = host.module("atedm_core.unet.ranking").PruneSettings(**settings)
    handler = host.module("patches.unet.attention_block").attention_block_handler
    return {
        run.RUN_KEY: run.PruneRun(run.Method(schedule, chosen, structure), lambda percent: 1.0 - percent),
        "patches": {"forward_timestep_embed_patch": [(SpatialTransformer, handler)]},
        "sigmas": torch.tensor([0.5]),
        "uuids": ["positive"],
    }


@pytest.mark.parametrize(
    ("kind", "latent"),
    [
        ("sdxl", (128, 128)),
        ("sdxl", (33, 25)),
        ("ssd1b", (128, 96)),
        ("vega", (64, 64)),
        ("refiner", (96, 96)),
        ("sd15", (64, 64)),
        ("sd2", (33, 25)),
    ],
)
def test_pruned_pass(host: InProcessHost, monkeypatch: pytest.MonkeyPatch, kind: str, latent: tuple[int, int]) -> None:
    """The pruned graph of the real model, ranking left out, against the formula; the tally of the run as well."""
    unet = full_size(kind)
    structure = structure_of(host, unet)
    options = run_options(host, structure, 0.63)
    with no_ranking(host, monkeypatch):
        counter = counted(unet, latent, options=options)
    expected = counter.get_total_flops()
    found = host.module("atedm_core.unet.flops").unet_flops(structure, latent, 0.63, weighted=True)
    assert found == pytest.approx(expected, rel=0.01)
    if (kind, latent) == ("sdxl", (128, 128)):
        assert expected == pytest.approx(SDXL_PRUNED_AND_WEIGHTED, rel=2e-4)
    total = options[host.module("patches.unet.run").RUN_KEY].total()
    assert total.pruned_calls == total.calls == len(structure.blocks)
    full = full_flops(kind, latent)
    choosing = host.module("atedm_core.unet.choosing_flops").choosing_flops
    kept_tokens = host.module("atedm_core.tokens").kept_tokens
    settings = host.module("atedm_core.unet.settings").PruneSettings()
    for block in structure.blocks:
        height, width = structure.grid(block.level, latent)
        kept = kept_tokens(height * width, 0.63)
        expected += choosing(settings, block.width, height * width, kept)
    assert total.flops_full - total.flops == pytest.approx(full - expected, rel=0.01)


def test_a_pass_pruned_inside_the_first_layer(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = full_size("sdxl")
    structure = structure_of(host, unet)
    point = "inside first layer"
    with no_ranking(host, monkeypatch):
        counter = counted(unet, (128, 128), options=run_options(host, structure, 0.63, prune_from=point))
    found = host.module("atedm_core.unet.flops").unet_flops(structure, (128, 128), 0.63, point=point, weighted=True)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_pass_pruned_from_the_blocks_start(host: InProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call of a run, with the first one's ranking."""
    unet = full_size("sdxl")
    structure = structure_of(host, unet)
    point = "block start"
    options = run_options(host, structure, 0.63, prune_from=point, rank_interval=4)
    with no_ranking(host, monkeypatch):
        counted(unet, (128, 128), options=options)
        options["sigmas"] = torch.tensor([0.4])
        counter = counted(unet, (128, 128), options=options)
    found = host.module("atedm_core.unet.flops").unet_flops(structure, (128, 128), 0.63, point=point, weighted=True)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_every_attention_block_costs_what_the_formula_says(
    host: InProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block by block, full and pruned, so that no error hides behind another."""
    unet = full_size("sdxl")
    structure = structure_of(host, unet)
    cost = host.module("atedm_core.unet.flops")
    kept_tokens = host.module("atedm_core.tokens").kept_tokens
    by_name = {f"{p} {i}": module for (p, i), module in transformers(_Holder(unet)).items()}
    assert len(structure.blocks) == len(by_name) == 11
    names = {module: name for name, module in unet.named_modules()}
    with no_ranking(host, monkeypatch):
        for ratio in (0.0, 0.63):
            counter = counted(unet, (128, 128), options=run_options(host, structure, ratio))
            spent = {path.split(".", 1)[-1]: sum(ops.values()) for path, ops in counter.get_flop_counts().items()}
            for block in structure.blocks:
                path = names[by_name[block.name]]
                inside = [value for key, value in spent.items() if key.startswith(path + ".") and _is_leaf(key, path)]
                height, width = structure.grid(block.level, (128, 128))
                expected = cost.block_flops(block, height * width, kept_tokens(height * width, ratio), weighted=True)
                assert sum(inside) == pytest.approx(expected, rel=0.01), (block.name, ratio)


def _is_leaf(key: str, path: str) -> bool:
    """The parts of a block that are called one by one: its projections and its layers."""
    rest = key[len(path) + 1 :].split(".")
    return rest in (["proj_in"], ["proj_out"]) or (len(rest) == 2 and rest[0] == "transformer_blocks")


def test_ranking_costs_a_small_share_of_what_pruning_saves(host: InProcessHost) -> None:
    """One round of page rank costs about two attention products per block; here it is counted with everything."""
    unet = full_size("sdxl")
    structure = structure_of(host, unet)
    with_ranking = counted(unet, (128, 128), options=run_options(host, structure, 0.63)).get_total_flops()
    saved = SDXL_FULL - SDXL_PRUNED
    assert 0 < with_ranking - SDXL_PRUNED < 0.2 * saved


def test_tokens_of_the_formula_are_those_the_layers_run_on(host: InProcessHost) -> None:
    """The grid of every level, odd sizes included, as the host's own down- and upsampling makes it."""
    unet = full_size("sd15")
    structure = structure_of(host, unet)
    for latent in SIZES:
        with layer_tokens(_Holder(unet)) as seen:
            forward(unet, latent)
        for block in structure.blocks:
            height, width = structure.grid(block.level, latent)
            assert [s["attn1"] for s in seen[block.part, block.index, 0]] == [height * width]


@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_a_models_dtype_and_device_do_not_change_its_structure(host: InProcessHost, kind: str) -> None:
    module = host.module("patches.unet.structure")
    model = apply(host, shared_model(kind))
    described = module.describe_unet(module.supported_unet(model))
    assert described == structure_of(host, model.model.diffusion_model)
    assert [b.name for b in described.blocks] == [b.name for b in structure_of(host, full_size(kind)).blocks]
