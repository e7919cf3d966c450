"""The little world: captions say scenes exactly, and what is held out is never drawn for training."""

from __future__ import annotations

import numpy as np
import pytest

from demo.scenes import (
    SHAPES,
    SIZE,
    TEMPLATES,
    Placing,
    Scene,
    all_scenes,
    caption,
    draw,
    loosen,
    parse,
    random_placing,
    split_scenes,
)

SCENES = list(all_scenes())


def some(count: int, seed: int = 0) -> list[Scene]:
    order = np.random.default_rng(seed).permutation(len(SCENES))
    return [SCENES[i] for i in order[:count]]


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_every_caption_reads_back_as_its_scene(template: int) -> None:
    assert all(parse(caption(scene, template)) == scene for scene in SCENES[:: len(TEMPLATES)])


def test_a_caption_may_leave_size_and_background_open() -> None:
    rng = np.random.default_rng(0)
    loose = [loosen(scene, rng) for scene in some(300)]
    assert any(s.size is None for s in loose)
    assert any(s.background is None for s in loose)
    assert all(parse(caption(s, i)) == s for i, s in enumerate(loose))


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        (
            "A big orange star, top right, on a grey background.",
            ("star", "orange", "upper right", "large", "gray"),
        ),
        ("white ring in the middle on a black background", ("ring", "white", "center", None, "black")),
        ("green heart", ("heart", "green", None, None, None)),
    ],
)
def test_people_may_word_it_differently(text: str, scene: tuple[str | None, ...]) -> None:
    assert parse(text) == Scene(*scene)


def test_an_object_in_the_colour_of_its_background_is_refused() -> None:
    with pytest.raises(ValueError, match="blue"):
        Scene("circle", "blue", "top", "small", "blue")


def test_an_unknown_part_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"octagon.*circle, square"):
        Scene("octagon", "blue", "top", "small", "white")


def test_held_out_combinations_are_a_tenth_and_never_in_training() -> None:
    train, held = split_scenes()
    combinations = [{(s.shape, s.colour, s.place) for s in part} for part in (train, held)]
    assert not combinations[0] & combinations[1]
    assert 0.09 < len(held) / (len(train) + len(held)) < 0.11


def test_every_part_of_a_held_out_scene_occurs_in_training() -> None:
    train, held = split_scenes()
    for part in ("shape", "colour", "place", "size", "background"):
        assert {getattr(s, part) for s in held} == {getattr(s, part) for s in train}


def test_a_shape_lies_whole_inside_its_picture_wherever_it_is_placed() -> None:
    rng = np.random.default_rng(1)
    for scene in some(80):
        picture = draw(scene, random_placing(rng))
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (border == border[0]).all()


def test_drawing_is_deterministic_and_moves_with_the_placing() -> None:
    scene = Scene("star", "red", "left", "large", "white")
    assert (draw(scene) == draw(scene)).all()
    moved = draw(scene, Placing(dx=3, dy=-2))
    assert (np.roll(draw(scene), (-2, 3), (0, 1)) == moved).all()


def test_a_picture_is_bytes_of_the_usual_size() -> None:
    picture = draw(SCENES[0])
    assert picture.shape == (SIZE, SIZE, 3)
    assert picture.dtype == np.uint8


def test_an_open_scene_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="open parts"):
        draw(Scene(SHAPES[0], "red", "top", None, "white"))
