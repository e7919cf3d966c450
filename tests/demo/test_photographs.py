"""Pictures composed of photographs: a seed gives one picture, captions say it, what is held out is never trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from demo.photographs import packages
from demo.photographs.catalogue import COLOURS, KINDS, Catalogue, Cutout, colour_words, main_colour, read_cutout
from demo.photographs.check import looks_like, shares
from demo.photographs.scenes import PARTS, PHOTO_TEMPLATES, SIZES, PhotoScene, compose, focus, is_held_out, words
from demo.scenes import PLACES, SIZE, caption, centre, loosen
from demo.text import words as known_words

MAGENTA = (255, 0, 255)


@pytest.fixture(scope="module")
def pictures() -> Catalogue:
    """Objects of one loud colour on grounds of gray noise."""
    rng = np.random.default_rng(0)
    grounds = [Image.fromarray(rng.integers(90, 110, (500, 700, 1), np.uint8).repeat(3, 2)) for _ in range(3)]
    thing = Image.new("RGBA", (120, 80), (*MAGENTA, 255))
    return Catalogue({kind: (Cutout(thing, "pink"),) for kind in KINDS}, tuple(grounds))


def test_a_seed_gives_the_same_picture_every_time_and_another_seed_another(pictures: Catalogue) -> None:
    one, again, other = compose(pictures, (3, 5)), compose(pictures, (3, 5)), compose(pictures, (3, 6))
    assert one.scene == again.scene
    assert (one.pixels == again.pixels).all()
    assert one.pixels.shape == (SIZE, SIZE, 3)
    assert (one.pixels != other.pixels).any()


def test_what_is_held_out_is_never_composed_for_training_and_nothing_else_is_for_the_score(pictures: Catalogue) -> None:
    def held(scene: PhotoScene) -> bool:
        return is_held_out(scene.kind, scene.size or "", scene.place)

    assert not any(held(compose(pictures, (3, i)).scene) for i in range(200))
    assert all(held(compose(pictures, (4, i), held_out=True).scene) for i in range(50))


def test_each_kind_and_size_is_held_out_at_one_place_and_each_place_for_some(pictures: Catalogue) -> None:
    for kind in KINDS:
        for size in SIZES:
            assert sum(is_held_out(kind, size, place) for place in PLACES) == 1
    assert all(any(is_held_out(kind, "small", place) for kind in KINDS) for place in PLACES)


def test_an_object_is_whole_and_at_its_place_and_as_large_as_the_caption_says(pictures: Catalogue) -> None:
    for i in range(60):
        shown = compose(pictures, (7, i))
        y, x = np.nonzero((shown.pixels == MAGENTA).all(-1))
        assert abs(max(np.ptp(x), np.ptp(y)) + 1 - SIZES[shown.scene.size or ""]) <= 7
        assert abs(np.ptp(x) - 1.5 * np.ptp(y)) < 4, "cut off at the border"
        told_x, told_y = centre(shown.scene.place)
        assert abs(x.mean() - told_x) < 16
        assert abs(y.mean() - told_y) < 16


@pytest.mark.parametrize("template", range(len(PHOTO_TEMPLATES)))
def test_a_caption_says_all_that_is_known_in_words_that_are_stored(template: int) -> None:
    stored = set(known_words(words()))
    for kind in KINDS:
        text = caption(PhotoScene(kind, "brown", "upper left", "small", "green"), template, PHOTO_TEMPLATES)
        said = set(text.replace(",", " , ").split())
        assert {kind, "brown", "upper", "left", "small", "green"} <= said <= stored


def test_what_is_not_known_is_not_said() -> None:
    scene = PhotoScene("owl", None, "top", None, None)
    assert [caption(scene, i, PHOTO_TEMPLATES) for i in range(4)] == ["an owl at the top"] * 4
    rng = np.random.default_rng(0)
    whole = PhotoScene("owl", "white", "top", "small", "green")
    assert {(s.size, s.background) for s in (loosen(whole, rng) for _ in range(200))} > {
        (None, "green"),
        ("small", None),
    }


def test_the_parts_that_the_text_encoders_learn_cover_every_scene(pictures: Catalogue) -> None:
    for i in range(50):
        scene = compose(pictures, (3, i)).scene
        assert all(getattr(scene, part) in (*values, None) for part, values in PARTS.items())


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((200, 30, 30), "red"), ((250, 140, 20), "orange"), ((250, 230, 40), "yellow"), ((40, 160, 60), "green"),
        ((40, 90, 220), "blue"), ((130, 50, 200), "purple"), ((240, 100, 180), "pink"), ((110, 80, 50), "brown"),
        ((10, 12, 8), "black"), ((240, 240, 238), "white"), ((120, 122, 118), "gray"),
    ],
)  # fmt: skip
def test_colours_have_their_words(rgb: tuple[int, int, int], word: str) -> None:
    assert main_colour(np.array([rgb] * 5, np.uint8)) == word


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_every_colour_has_a_word_and_grays_are_never_coloured(red: int, green: int, blue: int) -> None:
    assert 0 <= colour_words(np.array([[red, green, blue]], np.uint8))[0] < len(COLOURS)
    assert main_colour(np.array([[red] * 3], np.uint8)) in ("black", "gray", "white")


def test_a_thing_of_many_colours_has_none() -> None:
    assert main_colour(np.array([(200, 30, 30), (40, 160, 60), (40, 90, 220)], np.uint8)) is None


def test_an_object_is_cut_to_what_can_be_seen(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (600, 500), (0, 0, 0, 0))
    picture.paste((200, 30, 30, 255), (100, 200, 500, 300))
    picture.save(tmp_path / "a.png")
    cutout = read_cutout(tmp_path / "a.png")
    assert cutout.picture.size == (256, 64)
    assert cutout.colour == "red"


def test_packages_that_are_there_are_not_fetched_and_where_apt_is_missing_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(packages.PackageError, match=r"tuxpaint-stamps-default, but apt-get is not here\. On Debian"):
        packages.fetch(tmp_path)
    for package in packages.PACKAGES:
        folder = tmp_path / "tree/usr/share/doc" / package.name
        folder.mkdir(parents=True)
        (folder / "copyright").write_text("GPL-2\n")
    assert packages.fetch(tmp_path) == tmp_path / "tree"


def test_the_readme_names_every_source_and_its_licences(repository: Path) -> None:
    text = (repository / "demo/photographs/README.md").read_text(encoding="utf-8")
    for package in packages.PACKAGES:
        row = next(line for line in text.splitlines() if f"`{package.name}`" in line)
        assert package.licences in row


@pytest.mark.parametrize("place", PLACES)
def test_training_looks_at_the_object_more_and_at_the_same_total(place: str) -> None:
    for size in (*SIZES, None):
        weights = focus(PhotoScene("owl", None, place, size, None), 32)
        x, y = (int(v / 8) for v in centre(place))
        assert weights.mean() == pytest.approx(1, rel=1e-5)
        assert weights[y, x] == weights.max() == pytest.approx(4 * weights.min())
        assert 10 <= (weights == weights.max()).sum() ** 0.5 <= 18


def test_the_check_sees_colours_and_place_of_composed_pictures_and_misses_those_of_another(pictures: Catalogue) -> None:
    shown = [compose(pictures, (8, i)) for i in range(40)]
    scenes = [replace(one.scene, colour="pink", background="gray") for one in shown]
    assert shares([one.pixels for one in shown], scenes) == {"colour": 1.0, "background": 1.0, "place": 1.0}
    moved = [replace(s, place="top" if s.place == "bottom" else "bottom", background="red") for s in scenes]
    assert max(shares([one.pixels for one in shown], moved).values()) < 0.3


def test_the_check_refuses_pictures_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"shape \(64, 64, 3\), not \(256, 256, 3\): make the picture at 256 x 256"):
        looks_like(np.zeros((64, 64, 3), np.uint8), PhotoScene("owl", None, "top", None, None))
