"""The loader node in a real ComfyUI: the pack loads, and what it gives works with ComfyUI's own nodes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.host import use_host
from demo.store import DEFAULT_FILE

pytestmark = pytest.mark.host
CAPTION = "a small red circle in the upper left on a blue background"


@pytest.fixture(scope="module")
def comfy_nodes(repository: Path) -> Any:
    """ComfyUI's `nodes` with the demo pack loaded by ComfyUI's own loader."""
    use_host()
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(repository / "demo")))
    return nodes


@pytest.fixture(scope="module")
def parts(comfy_nodes: Any) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the bundled file, from the node."""
    return comfy_nodes.NODE_CLASS_MAPPINGS["ATEDMDemoLoader"].execute().args


@pytest.fixture(scope="module")
def generate(comfy_nodes: Any, parts: tuple[Any, Any, Any]) -> Any:
    """`generate(caption, width, height, batch, steps)` -> pictures, uint8 [B, H, W, 3]."""
    import torch

    model, clip, vae = parts

    def run(
        text: str, width: int = 256, height: int = 256, batch: int = 1, seed: int = 7, steps: int = 20
    ) -> np.ndarray:
        with torch.inference_mode():
            positive, negative = (comfy_nodes.CLIPTextEncode().encode(clip, t)[0] for t in (text, ""))
            latent = comfy_nodes.EmptyLatentImage().generate(width, height, batch)[0]
            sampler = comfy_nodes.KSampler()
            latent = sampler.sample(model, 7, steps, 4.0, "euler", "normal", positive, negative, latent)[0]
            image = comfy_nodes.VAEDecode().decode(vae, latent)[0]
        return (image.clamp(0, 1) * 255).round().byte().numpy()

    return run


def test_the_node_is_found_under_its_id_and_gives_what_a_checkpoint_loader_gives(comfy_nodes: Any) -> None:
    node = comfy_nodes.NODE_CLASS_MAPPINGS["ATEDMDemoLoader"]
    assert tuple(node.RETURN_TYPES) == ("MODEL", "CLIP", "VAE")
    assert comfy_nodes.NODE_DISPLAY_NAME_MAPPINGS["ATEDMDemoLoader"] == "AT-EDM Demo Model"


def test_the_model_is_an_sdxl_of_the_hosts_with_attention_at_the_two_lower_levels(parts: tuple[Any, Any, Any]) -> None:
    import comfy.ldm.modules.attention
    import comfy.model_base

    base = parts[0].model
    assert type(base) is comfy.model_base.SDXL
    with_attention = [
        i
        for i, block in enumerate(base.diffusion_model.input_blocks)
        if any(isinstance(layer, comfy.ldm.modules.attention.SpatialTransformer) for layer in block)
    ]
    assert with_attention == [4, 5, 7, 8]
    assert base.model_config.unet_config["transformer_depth"] == [0, 0, 2, 2, 2, 2]


def test_training_saw_exactly_what_clip_text_encode_gives(comfy_nodes: Any, parts: tuple[Any, Any, Any]) -> None:
    import copy

    import torch

    from demo import text

    clip, captions = parts[1], [CAPTION, "", "green heart", "a xylophone on a white background"]
    small = copy.deepcopy(clip.cond_stage_model).float()
    stored = torch.tensor(text.vocabulary(clip.tokenizer))
    unknown = 1000
    assert unknown not in stored
    for encoder in (small.clip_l, small.clip_g):
        table = encoder.transformer.get_input_embeddings().weight
        encoder.transformer.get_input_embeddings().weight = torch.nn.Parameter(table[[*stored.tolist(), unknown]])
    ids_l, ids_g = text.token_ids(clip.tokenizer, captions)
    rows = text.compact(ids_l, stored), text.compact(ids_g, stored)
    with torch.no_grad():
        tokens, pooled = text.encode_both(small, *rows, text.end_of(ids_l))
    for i, caption in enumerate(captions):
        (expected, extra), *_ = comfy_nodes.CLIPTextEncode().encode(clip, caption)[0]
        torch.testing.assert_close(tokens[i], expected[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(pooled[i], extra["pooled_output"][0], atol=1e-4, rtol=1e-4)


def test_captions_give_their_pictures(generate: Any) -> None:
    from demo.check import judge
    from demo.scenes import parse

    captions = [
        CAPTION,
        "a large yellow star at the bottom on a black background",
        "a large green square on the right on a white background",
    ]
    assert [judge(generate(text)[0], parse(text))["right"] for text in captions] == [True] * 3


def test_other_sizes_and_batches_work_and_the_same_seed_gives_the_same_picture(generate: Any) -> None:
    pictures = generate(CAPTION, width=320, height=192, batch=4, steps=4)
    assert pictures.shape == (4, 192, 320, 3)
    assert not (pictures[0] == pictures[1]).all()
    assert (pictures == generate(CAPTION, width=320, height=192, batch=4, steps=4)).all()


def test_vae_encode_takes_vae_decode_back(comfy_nodes: Any, parts: tuple[Any, Any, Any]) -> None:
    import torch

    from demo.scenes import Scene, draw

    image = torch.from_numpy(draw(Scene("ring", "pink", "left", "large", "gray"))).float()[None] / 255
    with torch.inference_mode():
        latent = comfy_nodes.VAEEncode().encode(parts[2], image)[0]
        back = comfy_nodes.VAEDecode().decode(parts[2], latent)[0]
        tiled = comfy_nodes.VAEDecodeTiled().decode(parts[2], latent, 128)[0]
    assert latent["samples"].shape == (1, 4, 32, 32)
    assert float((back - image).abs().mean()) < 0.01
    assert float((tiled - image).abs().mean()) < 0.02


def test_the_photographs_model_comes_from_the_same_node(comfy_nodes: Any) -> None:
    node = comfy_nodes.NODE_CLASS_MAPPINGS["ATEDMDemoLoader"]
    model = node.execute(model="photographs").args[0]
    assert model.model.model_config.unet_config["transformer_depth"] == [0, 0, 2, 2, 10, 10]
    assert node.fingerprint_inputs(model="photographs") != node.fingerprint_inputs()


@pytest.fixture
def checkpoints(comfy_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that ComfyUI takes checkpoints from."""
    import folder_paths

    folders, suffixes = folder_paths.folder_names_and_paths["checkpoints"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([*folders, str(tmp_path)], suffixes))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def loaded(comfy_nodes: Any, file: str) -> Any:
    node = comfy_nodes.NODE_CLASS_MAPPINGS["ATEDMDemoLoader"]
    assert node.fingerprint_inputs(file=file)
    return node.execute(file=file)


def test_a_damaged_file_is_an_error_that_names_it(comfy_nodes: Any, checkpoints: Path) -> None:
    (checkpoints / "half.safetensors").write_bytes(DEFAULT_FILE.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"half\.safetensors"):
        loaded(comfy_nodes, "half.safetensors")


def test_a_copy_in_the_hosts_folder_is_loaded_by_its_name(comfy_nodes: Any, checkpoints: Path) -> None:
    (checkpoints / "sub").mkdir()
    (checkpoints / "sub" / "copy.safetensors").write_bytes(DEFAULT_FILE.read_bytes())
    model, _, _ = loaded(comfy_nodes, "sub/copy.safetensors").args
    assert type(model.model).__name__ == "SDXL"


@pytest.mark.parametrize("kind", ["absolute", "upwards", "relative to home", "very long", "with a null", "a folder"])
def test_no_other_file_of_the_machine_is_opened(
    comfy_nodes: Any, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "model.safetensors"
    outside.write_bytes(DEFAULT_FILE.read_bytes())
    file = {
        "absolute": str(outside),
        "upwards": f"../{outside.parent.name}/{outside.name}",
        "relative to home": "~/model.safetensors",
        "very long": "x" * 100_000,
        "with a null": "model\0.safetensors",
        "a folder": ".",
    }[kind]
    with pytest.raises(ValueError, match="has no checkpoint of that name") as caught:
        loaded(comfy_nodes, file)
    assert len(str(caught.value)) < 400


def test_metadata_that_is_nested_very_deeply_is_an_error_that_names_the_file(
    comfy_nodes: Any, checkpoints: Path
) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(DEFAULT_FILE, "pt") as opened:
        metadata = dict(opened.metadata())
    weights = load_file(DEFAULT_FILE)
    nested = {
        "deep": "[" * 100_000 + "]" * 100_000,
        "list": "[]",
        "text": '{"unet": "x", "text": {}, "pixels": {}}',
        "huge": '{"unet": {"model_channels": 1e400}, "text": {}, "pixels": {}}',
    }
    for name, config in nested.items():
        file = checkpoints / f"{name}.safetensors"
        save_file(weights, file, {**metadata, "config": config})
        with pytest.raises(ValueError, match=rf"{name}\.safetensors"):
            loaded(comfy_nodes, file.name)
