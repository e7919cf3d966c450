"""The demo's transformer: its file says what is wrong with it, and its training sees what ComfyUI's sampler sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from demo.transformer_store import DEFAULT_FILE, PHOTOGRAPHS, TransformerConfig, read, write

pytestmark = pytest.mark.host
SMALL = TransformerConfig(heads=1, blocks=2, side=16)


@pytest.fixture(scope="module")
def trainee():
    from demo.host import use_host

    use_host()
    torch.set_num_threads(1)
    from demo.transformer_trainee import TransformerTrainee

    made = TransformerTrainee(SMALL, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():  # it starts as a model that answers nothing
        for name, weight in made.named_parameters():
            if "adaLN" in name or "final_layer.linear" in name:
                weight.normal_(0, 0.05, generator=generator)
    return made


@pytest.mark.parametrize("file", [DEFAULT_FILE, PHOTOGRAPHS], ids=lambda file: file.stem)
def test_a_bundled_file_is_whole_and_small(file: Path):
    config, weights, training = read(file)
    assert file.stat().st_size < 8_000_000
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert weights["pos_embed"].shape == (1, config.side**2, config.width)
    assert training["steps"] > 0


def test_a_file_comes_back_as_it_was_written(tmp_path: Path):
    write(tmp_path / "a.safetensors", SMALL, {"one": torch.ones(2, 3)}, {"steps": 5})
    config, weights, training = read(tmp_path / "a.safetensors")
    assert (config, training) == (SMALL, {"steps": 5})
    assert torch.equal(weights["one"], torch.ones(2, 3, dtype=torch.float16))


def test_a_missing_a_foreign_and_a_changed_file_are_refused_with_a_way_out(tmp_path: Path):
    file = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match=r"a\.safetensors: there is no such file; restore it"):
        read(file)
    save_file({"one": torch.ones(2)}, file)
    with pytest.raises(ValueError, match="its format is None"):
        read(file)
    write(file, SMALL, {"one": torch.ones(2)}, {})
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        told = dict(opened.metadata())
    save_file({name: weight + 1 for name, weight in load_file(file).items()}, file, told)
    with pytest.raises(ValueError, match="do not match their checksum"):
        read(file)


def test_training_predicts_what_the_host_would(trainee):
    from demo.transformer_trainee import by_token

    generator = torch.Generator().manual_seed(5)
    latents, noise = torch.randn(2, 2, 4, 32, 32, generator=generator).unbind()
    sigma, captions = torch.tensor([0.9, 0.3]), ["a red circle on the left", ""]
    with torch.no_grad():
        out, true = trainee.velocity(latents, noise, sigma, captions)
        context, pooled = trainee.conditions(captions)
        noisy = latents + sigma[:, None, None, None] * (noise - latents)
        host = trainee.dit(noisy, 1000 * sigma, context=context, y=pooled)
    assert host.std() > 0.01
    # bfloat16 against float32
    assert (by_token(host) - out).abs().max() < 0.03 * host.abs().max()
    assert torch.allclose(true, by_token(noise - latents))


def test_some_of_the_tokens_are_predicted_for_their_own_places(trainee):
    generator = torch.Generator().manual_seed(6)
    latents, noise = torch.randn(2, 2, 4, 32, 32, generator=generator).unbind()
    tokens = torch.stack([torch.randperm(256, generator=generator) for _ in range(2)])
    given = (latents, noise, torch.tensor([0.5, 0.5]), ["a blue star", "a pink ring"])
    with torch.no_grad():
        out, true = trainee.velocity(*given)
        # all of them in another order: attention does not mind
        moved, moved_true = trainee.velocity(*given, tokens)
    back = tokens.argsort(1)[..., None].expand_as(out)
    assert torch.equal(moved_true.gather(1, back), true)
    assert (moved.gather(1, back) - out).abs().max() < 0.03 * out.abs().max()


def test_learning_lowers_the_loss_and_leaves_the_text_encoders_alone(trainee):
    import numpy as np

    from demo.scenes import split_scenes
    from demo.train_model import Progress, update
    from demo.transformer_trainee import TransformerTraining, learn, optimizers

    scenes = split_scenes()[0][:8]
    generator = torch.Generator().manual_seed(7)
    data = {"scenes": scenes, "shows": np.arange(8), "latents": torch.randn(8, 1, 1, 1, generator=generator)}
    data["latents"] = data["latents"].expand(8, 4, 32, 32)
    training = TransformerTraining(batch=4)
    before = [weight.clone() for weight in trainee._text[0].parameters()]
    made, rng = optimizers(trainee, training), np.random.default_rng(8)
    torch.manual_seed(9)
    losses = []
    for _ in range(12):
        losses.append(learn(trainee, data, rng, Progress(), training))
        update(trainee, made, 5e-3)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    first = trainee.dit.t_embedder.mlp[0].weight
    shut_off = (first == 0).all(dim=0).view(2, -1)  # cosines and sines, the fastest first
    half = shut_off.shape[1] // 2
    assert shut_off[:, :half].all(), "and does not learn to answer every noise level differently"
    assert not shut_off[:, half:].any()
    assert all(torch.equal(a, b) for a, b in zip(before, trainee._text[0].parameters(), strict=True))


def test_a_training_may_begin_with_a_finished_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    from demo import train_transformer
    from demo.scenes import split_scenes

    scenes = split_scenes()[0][:2]
    latents = torch.zeros(2, 4, 32, 32)
    data = {"scenes": scenes, "shows": range(2), "latents": latents, "held_out": (latents, scenes)}
    torch.save(data, tmp_path / "latents.pt")
    out = tmp_path / "out.safetensors"
    told = {"--work": tmp_path, "--out": out, "--start": DEFAULT_FILE, "--minutes": 0}
    monkeypatch.setattr(sys, "argv", ["train", *(str(word) for pair in told.items() for word in pair)])
    train_transformer.main()
    (_, found, notes), (_, start, _) = read(out), read()
    assert notes["steps"] == 0
    fast = "t_embedder.mlp.0.weight"
    assert all(torch.equal(found[name], weight) for name, weight in start.items() if name != fast)
    both = found[fast].view(len(found[fast]), 2, -1), start[fast].view(len(start[fast]), 2, -1)
    half = both[0].shape[2] // 2
    assert not both[0][..., :half].any()
    assert torch.equal(both[0][..., half:], both[1][..., half:])
