"""The photographs' model in ComfyUI's classes: SDXL's depth and share of FLOPs, the demo's weights as its start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from demo.host import use_host
from demo.photographs.scenes import PHOTO_TEMPLATES, PhotoScene, words
from demo.photographs.store import FILE
from demo.pixels import Pixels, PixelsConfig, widen
from demo.scenes import caption
from demo.store import DEFAULT_FILE, DemoFile, read, write

pytestmark = pytest.mark.host
SDXL_SHARE = 0.76  # of its FLOPs in attention blocks


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trainees() -> tuple[Any, Any]:
    """(the demo's model with its weights, the photographs' model right after its head start), in float32."""
    use_host()
    from demo.model import DemoConfig
    from demo.photographs.model import CONFIG
    from demo.photographs.start import head_start
    from demo.trainee import Trainee

    source = read(DEFAULT_FILE)
    shallow, deep = Trainee(DemoConfig(), 1, half=False), Trainee(CONFIG, 2, words(), half=False)
    shallow.unet.load_state_dict(source.unet)
    shallow.text.load_state_dict(source.text)
    assert head_start(deep, source) > 800
    return shallow, deep


def test_a_widened_autoencoder_computes_the_same() -> None:
    torch.manual_seed(0)
    narrow = Pixels(PixelsConfig(8, 12, 6))
    wide = widen(narrow, PixelsConfig(10, 20, 8))
    pictures = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        latents = narrow.encode(pictures)
        torch.testing.assert_close(wide.encode(pictures), latents)
        torch.testing.assert_close(wide.decode(latents), narrow.decode(latents))
    assert wide.decoder.body[0].first.weight[15].any(), "its new channels could not learn anything"


def test_the_deeper_model_starts_out_drawing_what_the_demo_draws(trainees: tuple[Any, Any]) -> None:
    generator = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(2, 4, 32, 32, generator=generator) for _ in range(2))
    sizes = torch.randn(2, 1536, generator=generator)
    captions = ["a small red circle in the upper left on a blue background", "a large green star at the top"]
    with torch.no_grad():
        demo, deeper = (t.velocity(latents, noise, torch.tensor([100, 900]), sizes, captions)[0] for t in trainees)
    torch.testing.assert_close(deeper, demo, atol=1e-4, rtol=1e-4)


def test_added_layers_can_learn(trainees: tuple[Any, Any]) -> None:
    from demo.photographs.start import is_identity

    layers = trainees[1].unet.middle_block[1].transformer_blocks
    assert [is_identity(layer) for layer in layers] == [False] * 2 + [True] * 8
    assert all(layer.attn1.to_q.weight.std() > 0 for layer in layers)


def test_attention_blocks_take_about_the_share_of_the_flops_that_sdxls_take() -> None:
    use_host()
    from comfy.ldm.modules.attention import SpatialTransformer
    from torch.utils.flop_counter import FlopCounterMode

    from demo.model import build_sdxl
    from demo.photographs.model import CONFIG

    unet = build_sdxl(CONFIG).diffusion_model.to("meta")  # where attention is counted too
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, torch.device("meta"):
        unet(torch.zeros(1, 4, 32, 32), torch.zeros(1), torch.zeros(1, 77, 128), y=torch.zeros(1, 1600))
    counts = counter.get_flop_counts()
    names = [name for name, module in unet.named_modules() if isinstance(module, SpatialTransformer)]
    assert len(names) == 11
    in_blocks = sum(sum(counts[f"UNetModel.{name}"].values()) for name in names)
    assert abs(in_blocks / counter.get_total_flops() - SDXL_SHARE) < 0.10
    assert [len(unet.get_submodule(name).transformer_blocks) for name in names] == [2] * 2 + [10] * 6 + [2] * 3


def test_a_file_of_it_comes_back_as_it_was_written(trainees: tuple[Any, Any], tmp_path: Any) -> None:
    from demo.photographs.model import CONFIG, load

    deep, pixels = trainees[1], Pixels(CONFIG.pixels)
    parts = (deep.unet.state_dict(), deep.text.state_dict(), pixels.state_dict())
    file = tmp_path / "a.safetensors"
    write(file, DemoFile(*parts, CONFIG.to_dict(), deep.captions.stored.tolist(), {"steps": 0}))
    model, _, vae = load(file)
    for name, weight in model.model.diffusion_model.state_dict().items():
        torch.testing.assert_close(weight.float(), deep.unet.state_dict()[name], atol=1e-3, rtol=1e-3)
    assert vae.first_stage_model.decoder.start.weight.shape[0] == CONFIG.pixels.decoder_width


def test_the_bundled_file_is_small_enough_and_says_how_it_was_trained() -> None:
    content = read(FILE)
    assert FILE.stat().st_size < 25_000_000
    assert content.training["steps"] > 1000
    assert all(torch.isfinite(weight).all() for weight in (*content.unet.values(), *content.text.values()))


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the bundled file."""
    use_host()
    from demo.photographs.model import load

    return load()


def test_it_samples_pictures_that_follow_the_caption(parts: tuple[Any, Any, Any]) -> None:
    from demo.evaluate import Settings, picture

    settings = Settings(steps=8)
    texts = [
        caption(PhotoScene("strawberry", "red", place, "large", background), 0, PHOTO_TEMPLATES)
        for place, background in (("left", "blue"), ("right", "black"))
    ]
    on_blue, on_black = (picture(parts, text, settings, 3).astype(float) for text in texts)
    assert on_blue.shape == (256, 256, 3)
    assert on_blue.std() > 10
    assert on_black.mean() < on_blue.mean()
    red = [(p[..., 0] - p[..., 1:].mean(-1)).clip(0) for p in (on_blue, on_black)]
    columns = [float((r.sum(0) * np.arange(256)).sum() / r.sum()) for r in red]
    assert columns[0] < columns[1], "the strawberry is not where the caption says"


def test_its_autoencoder_keeps_more_of_texture_than_the_demos(parts: tuple[Any, Any, Any]) -> None:
    from demo.model import load
    from demo.photographs.evaluate import psnr

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128]
    waves = [np.sin(rng.normal() * x / 8 + rng.normal() * y / 8 + rng.random() * 6) for _ in range(12)]
    pictures = np.stack([(127 + 20 * np.stack(waves[3 * i : 3 * i + 3], -1)).astype(np.uint8) for i in range(4)])
    assert psnr(parts[2], pictures) > psnr(load(DEFAULT_FILE)[2], pictures) + 3


def test_the_transformers_training_reads_the_photographs_captions() -> None:
    use_host()
    from demo.train_model import Progress
    from demo.transformer_store import TransformerConfig
    from demo.transformer_trainee import TransformerTrainee, TransformerTraining, learn

    trainee = TransformerTrainee(TransformerConfig(heads=1, blocks=2, side=16), 3, FILE)
    scene = PhotoScene("zebra", "gray", "top", "small", "brown")
    rows, _, end = trainee._captions([caption(scene, 0, PHOTO_TEMPLATES)])
    unknown = len(read(FILE).tokens)
    assert unknown not in rows[0, : end[0]]
    data = {"scenes": [scene] * 8, "shows": range(8), "latents": torch.randn(8, 4, 32, 32)}
    training = TransformerTraining(batch=4)
    loss = learn(trainee, data, np.random.default_rng(0), Progress(), training, PHOTO_TEMPLATES)
    assert 0 < loss < 10


def test_the_objects_place_counts_more_in_the_loss(trainees: tuple[Any, Any]) -> None:
    from demo.photographs.scenes import focus
    from demo.train_model import ModelTraining, backward

    scene = PhotoScene("zebra", "gray", "top", "small", "brown")
    data = {"scenes": [scene] * 8, "shows": range(8), "latents": torch.randn(8, 4, 32, 32)}
    training, losses = ModelTraining(batch=4, empty=0.0), []
    for weights in (None, lambda s: torch.ones(32, 32), lambda s: torch.from_numpy(focus(s, 32))):
        torch.manual_seed(0)
        losses.append(backward(trainees[1], data, np.random.default_rng(0), training, PHOTO_TEMPLATES, weights))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[2] != pytest.approx(losses[1], rel=1e-4)
