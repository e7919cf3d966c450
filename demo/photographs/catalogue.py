"""Which pictures of the packages are used, and as what: objects by kind, and grounds.

Chosen by eye: photographs of one object at least 88 pixels long, and grounds that are photographs or have texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

STAMPS = "usr/share/tuxpaint/stamps"
KINDS: dict[str, tuple[str, str]] = {  # kind -> (folder, names of its pictures)
    "bird": ("animals/birds", "blackbird crow lark pigeon silver-gull adelaide-rosella rainbow-lorikeet magpie"),
    "duck": ("animals/birds", "duck drake"),
    "hen": ("animals/birds", "hen rooster chicken_profile"),
    "penguin": ("animals/birds", "penguin little-penguin magellanic_penguin"),
    "owl": ("animals/birds", "owl"),
    "fish": ("animals/fish", "bluegroper butterflyfish dolphinfish stripedfish moonwrasse"),
    "frog": ("animals/amphibians", "frog frog-1"),
    "bear": ("animals/mammals/bears", "bear european-bear"),
    "cow": ("animals/mammals/bovines", "cow cow_white bull zebu"),
    "sheep": ("animals/mammals/bovines", "ram sheep"),
    "lion": ("animals/mammals/cats", "lion lion-2"),
    "tiger": ("animals/mammals/cats", "tiger"),
    "deer": ("animals/mammals/deer", "deer doe wapiti"),
    "dog": ("animals/mammals/dogs", "dog dingo"),
    "fox": ("animals/mammals/dogs", "fox"),
    "horse": ("animals/mammals/equines", "horse donkey"),
    "zebra": ("animals/mammals/equines", "zebra"),
    "elephant": ("animals/mammals", "elephant"),
    "pig": ("animals/mammals", "pig pig_golden pig_golden2"),
    "rabbit": ("animals/mammals/rodents", "rabbit rabbit-2"),
    "lemon": ("food/fruit", "lemon"),
    "kiwi": ("food/fruit", "kiwi"),
    "apricot": ("food/fruit", "Apricot_whole apricot"),
    "avocado": ("food/fruit", "avocado"),
    "strawberry": ("food/fruit", "Strawberry2"),
    "pineapple": ("food/fruit", "pineapple"),
    "broccoli": ("food/vegetables", "broccoli"),
    "mushroom": ("plants/mushrooms", "cep cep-1 cep-2"),
    "flower": (
        "plants/flowers",
        "adeenia anemone_red daffodil flower1 flower2 flower5 flower8 flower9 marigold pigface red-gazania rose "
        "yellow-flower bolsom",
    ),
    "tree": ("plants/trees", "holm_oak tree336 liberia-palm"),
    "guitar": ("hobbies/music/string", "guitar2 guitar_classical guitar_electric"),
    "violin": ("hobbies/music/string", "violin cello"),
    "drum": ("hobbies/music/percussion", "drum_tomtom_floor"),
    "mug": ("household/dishes", "mug"),
    "pitcher": ("household/dishes", "pitcher_small"),
    "planet": ("space/planets", "2_venus 3_earth 4_mars 5_jupiter 8_neptune"),
    "moon": ("space/moon", "moon_full"),
    "ball": ("sports", "basketball soccer tennis_ball"),
    "football": ("sports", "football australian_rules_football"),
    "car": ("vehicles/auto", "beetle sedan sportscar2 truck"),
    "wheel": ("vehicles", "7spoke256"),
    "balloon": ("vehicles/flight", "balloon360"),
}
GROUNDS = {  # folder -> names
    "usr/share/backgrounds": (
        "Bridge_by_Sander_Klootwijk.jpg Dragonfly_by_Bolly.jpg Kleiber_by_Lukas_Baubkus.jpg "
        "Picture_1A_by_freespace.jpg Wine_by_Jakkub_Mede.jpg aitzgorri_by_Aitzol_Berasategi.jpg "
        "analogpattern_by_Peter_Nerlich.jpg "
        "life_by_Aitzol_Berasategi.jpg picosdeeuropa_by_Aitzol_Berasategi.jpg seeding_by_Clements_Engelhardt.jpg "
        "sunset_by_Aitzol_Berasategi.jpg "
        " Painting-Colors_by__herobrine7gamer.jpg 2004default.jpg string.jpg"
    ),
    "usr/share/backgrounds/gnome": "grid-d.webp grid-l.webp truchet-l.webp wood-d.webp wood-l.webp",
    "usr/share/backgrounds/mate/abstract": "Elephants.jpg",
    "usr/share/backgrounds/mate/nature": (
        "Aqua.jpg Blinds.jpg Dune.jpg FreshFlower.jpg Garden.jpg GreenMeadow.jpg LadyBird.jpg RainDrops.jpg Storm.jpg "
        "TwoWings.jpg Wood.jpg YellowFlower.jpg"
    ),
    "usr/share/wallpapers": (
        "Autumn/contents/images/2560x1600.jpg BytheWater/contents/images/2560x1600.jpg "
        "Canopee/contents/images/3840x2160.png ColdRipple/contents/images/2560x1600.jpg "
        "ColorfulCups/contents/images/2560x1600.jpg DarkestHour/contents/images/2560x1600.jpg "
        "EveningGlow/contents/images/2560x1600.jpg FallenLeaf/contents/images/2560x1600.jpg "
        "Grey/contents/images/2560x1600.jpg Kite/contents/images/2560x1600.jpg "
        "OneStandsOut/contents/images/2560x1600.jpg PastelHills/contents/images/3200x2000.jpg "
        "Path/contents/images/2560x1600.jpg SafeLanding/contents/images/5120x2880.jpg "
        "summer_1am/contents/images/2560x1600.jpg"
    ),
}
OBJECT_SIDE = 256  # pixels of an object's longer side that are kept at most
GROUND_SIDE = 1000  # pixels of a ground's shorter side that are kept at most
COLOURS = ("black", "white", "gray", "brown", "red", "orange", "yellow", "green", "blue", "purple", "pink")
HUES = (18, 42, 68, 165, 255, 288, 340)  # degrees where red, orange, yellow, green, blue, purple and pink end


@dataclass(frozen=True)
class Cutout:
    """An object: its picture, RGBA cut to what can be seen, and its colour, `None` where it has many."""

    picture: Image.Image
    colour: str | None


@dataclass(frozen=True)
class Catalogue:
    """All pictures: objects by kind, and grounds."""

    objects: dict[str, tuple[Cutout, ...]]
    grounds: tuple[Image.Image, ...]


def colour_words(rgb: np.ndarray) -> np.ndarray:
    """Index into `COLOURS` of each uint8 colour [..., 3]."""
    x = rgb.astype(np.float32) / 255
    high, low = x.max(-1), x.min(-1)
    spread = np.maximum(high - low, 1e-6)
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    hue = np.where(
        high == red,
        (green - blue) / spread % 6,
        np.where(high == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    bins = np.searchsorted(HUES, 60 * hue, side="right") % len(HUES)
    words = bins + COLOURS.index("red")
    saturation = spread / np.maximum(high, 1e-6)
    words = np.where(((bins == 0) | (bins == 1)) & (high < 0.62) & (saturation < 0.75), COLOURS.index("brown"), words)
    plain = saturation < 0.18
    words = np.where(plain, np.where(high > 0.75, COLOURS.index("white"), COLOURS.index("gray")), words)
    return np.where(high < 0.2, COLOURS.index("black"), words)


def main_colour(rgb: np.ndarray, least: float = 0.45) -> str | None:
    """The word for most of the colours [N, 3] uint8, `None` where none has `least` of them."""
    counts = np.bincount(colour_words(rgb).reshape(-1), minlength=len(COLOURS))
    return COLOURS[counts.argmax()] if counts.max() >= least * counts.sum() else None


def read_cutout(file: Path) -> Cutout:
    """An object's picture, cut to what can be seen."""
    picture = Image.open(file).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda v: 255 * (v > 40)).getbbox())
    if max(picture.size) > OBJECT_SIDE:
        scale = OBJECT_SIDE / max(picture.size)
        picture = resize(picture, tuple(max(1, round(scale * s)) for s in picture.size))
    pixels = np.asarray(picture)
    return Cutout(picture, main_colour(pixels[pixels[..., 3] > 200][:, :3]))


def resize(picture: Image.Image, size: tuple[int, ...]) -> Image.Image:
    """To (width, height), transparency taken into account."""
    width, height = size
    return picture.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")


def read_ground(file: Path) -> Image.Image:
    """A ground, made smaller where it is large."""
    opened = Image.open(file)
    opened.draft("RGB", (2 * GROUND_SIDE, 2 * GROUND_SIDE))
    picture = opened.convert("RGB")
    scale = GROUND_SIDE / min(picture.size)
    if scale < 1:
        picture = picture.resize(
            (round(scale * picture.width), round(scale * picture.height)), Image.Resampling.LANCZOS
        )
    return picture


@lru_cache(maxsize=1)
def catalogue(root: Path) -> Catalogue:
    """Read all pictures from the unpacked packages under `root` (see `packages.fetch`)."""
    objects = {
        kind: tuple(read_cutout(root / STAMPS / folder / f"{name}.png") for name in names.split())
        for kind, (folder, names) in KINDS.items()
    }
    grounds = tuple(read_ground(root / folder / name) for folder, names in GROUNDS.items() for name in names.split())
    return Catalogue(objects, grounds)
