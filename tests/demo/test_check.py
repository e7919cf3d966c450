"""The check is exact: every drawn scene passes, any wrong part fails, and nothing can hide in its tolerances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from demo.check import judge, see
from demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    OBJECT_COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    all_scenes,
    draw,
    random_placing,
)

SCENES = list(all_scenes())
PARTS = {"shape": SHAPES, "colour": OBJECT_COLOURS, "place": PLACES, "size": SIZES, "background": BACKGROUNDS}
STAR = Scene("star", "red", "top", "large", "white")


def some(count: int, seed: int = 0) -> list[Scene]:
    order = np.random.default_rng(seed).permutation(len(SCENES))
    return [SCENES[i] for i in order[:count]]


def test_every_drawn_scene_passes_in_all_parts() -> None:
    rng = np.random.default_rng(2)
    for scene in some(80):
        assert all(judge(draw(scene, random_placing(rng)), scene).values()), scene


@pytest.mark.parametrize("part", PARTS)
def test_a_picture_of_another_scene_fails_in_the_part_that_differs(part: str) -> None:
    for scene in some(12, seed=3):
        for value in PARTS[part]:
            if value == getattr(scene, part) or value in (scene.colour, scene.background):
                continue
            verdict = judge(draw(replace(scene, **{part: value})), scene)
            assert [p for p in PARTS if not verdict[p]] == [part]


def test_open_parts_are_right_whatever_is_shown() -> None:
    asked = Scene("star", "red", "top", None, None)
    assert all(judge(draw(STAR), asked).values())


def test_an_empty_picture_shows_nothing() -> None:
    empty = np.full((256, 256, 3), COLOURS["white"], np.uint8)
    assert not judge(empty, STAR)["right"]
    assert see(empty).shape is None


def test_noise_shows_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    assert not judge(noise, STAR)["right"]


def test_a_second_object_is_not_overlooked() -> None:
    picture = draw(STAR)
    picture[180:220, 30:70] = COLOURS["green"]
    verdict = judge(picture, STAR)
    assert not verdict["clean"]
    assert not verdict["right"]


def test_half_a_shape_is_no_shape() -> None:
    picture = draw(Scene("circle", "red", "center", "large", "white"))
    picture[:128] = COLOURS["white"]
    assert see(picture).shape != "circle"


def test_a_thing_of_no_known_shape_still_has_a_colour_and_a_place() -> None:
    picture = np.full((256, 256, 3), COLOURS["white"], np.uint8)
    for x in range(20, 90, 14):
        picture[180:240, x : x + 6] = COLOURS["green"]
    seen = see(picture)
    assert (seen.shape, seen.colour, seen.place, seen.background) == (None, "green", "lower left", "white")


def test_a_colour_between_two_names_is_neither() -> None:
    picture = draw(STAR).astype(int)
    red = (picture == COLOURS["red"]).all(-1)
    picture[red] = (150, 30, 110)
    assert see(picture.astype(np.uint8)).colour != "red"


def test_a_slightly_soft_and_shaded_picture_still_passes() -> None:
    for scene in some(20, seed=5):
        picture = draw(scene).astype(np.float32)
        soft = sum(np.roll(picture, shift, axis) for axis in (0, 1) for shift in (-1, 0, 1)) / 6
        soft += np.random.default_rng(0).normal(0, 3, soft.shape)
        assert judge(soft.clip(0, 255).astype(np.uint8), scene)["right"], scene
