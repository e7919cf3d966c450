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


def test_a_damaged_file_is_an_error_that_names_it(comfy_nodes: Any, tmp_path: Path) -> None:
    file = tmp_path / "half.safetensors"
    file.write_bytes(DEFAULT_FILE.read_bytes()[:100_000])
    node = comfy_nodes.NODE_CLASS_MAPPINGS["ATEDMDemoLoader"]
    with pytest.raises(ValueError, match=r"half\.safetensors.*leave the input `file` empty"):
        node.execute(file=str(file))
