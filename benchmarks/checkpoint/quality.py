"""How good a row's pictures are: FID and CLIP score as the paper has them, LPIPS, and distances that need nothing.

FID and LPIPS come from torchmetrics, CLIP from transformers. Both are imported only here and only when they are there;
what they need of weights they fetch themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor

from devtools.console import DevError

from ..lab.measures import psnr

REQUIREMENTS = ("torchmetrics[image]>=1.6,<2", "transformers>=4.40")
CLIP_MODEL = "openai/clip-vit-base-patch32"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
INCEPTION_SIDE = 299
BATCH = 16

Tick = Callable[[int], None]


class Scorer(Protocol):
    """A measure of a whole row.

    Attributes:
        name: in tables.
        setting: what else its value depends on.
    """

    name: str
    setting: str

    def score(self, pictures: Sequence[Path], prompts: Sequence[str], full: Sequence[Path], tick: Tick) -> float:
        """The measure of pictures, given their prompts and the full model's pictures; `tick` is told each batch."""
        ...


def distances(picture: Path, full: Path) -> dict[str, float]:
    """PSNR in dB and SSIM of a picture against the full model's."""
    one, other = pixels(picture), pixels(full)
    if one.shape != other.shape:
        raise DevError(f"{picture} and {full} differ in size: delete both, and the same command draws them again.")
    ssim = structural_similarity(one, other, channel_axis=2)
    return {"psnr": round(psnr(one, other), 4), "ssim": round(float(ssim), 6)}


def pixels(file: Path) -> np.ndarray:
    """A picture, uint8 [H, W, 3].

    Raises:
        DevError: it cannot be read.
    """
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DevError(f"{file} is no readable picture ({error}). Take it away, and call again.") from error


def reference_images(folder: Path) -> list[Path]:
    """The pictures in a folder, for FID.

    Raises:
        DevError: there is no such folder, or it holds fewer than two pictures.
    """
    if not folder.is_dir():
        raise DevError(f"--images {folder}: there is no such folder. Name one with the real pictures for FID.")
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if len(found) < 2:
        raise DevError(f"--images {folder} holds {len(found)} pictures ({', '.join(SUFFIXES)}): FID needs many.")
    return found


def lacking() -> str:
    """What to say where torchmetrics is not there; nothing where it is."""
    missing = [name for name in ("torchmetrics", "torch_fidelity", "transformers") if find_spec(name) is None]
    if not missing:
        return ""
    wanted = " ".join(f'"{one}"' for one in REQUIREMENTS)
    return (
        f"FID, CLIP and LPIPS need {' and '.join(missing)}, not found here: "
        f"{sys.executable} -m pip install {wanted}. PSNR and SSIM need nothing."
    )


def scorers(images: Sequence[Path], clip_model: str, device: torch.device) -> tuple[list[Scorer], list[str]]:
    """What can be measured here, and one line for whatever cannot."""
    if lacking():
        return [], [lacking()]
    makers: list[tuple[str, Callable[[], Scorer]]] = [
        ("CLIP", lambda: Clip(clip_model, device)),
        ("LPIPS", lambda: Lpips(device)),
    ]
    notes = []
    if images:
        makers.insert(0, ("FID", lambda: Fid(images, device)))
    else:
        notes.append("FID needs real pictures to compare with: --images DIR.")
    made: list[Scorer] = []
    for name, make in makers:
        try:
            made.append(make())
        except Exception as error:  # whatever fetching weights may raise: the other measures are still worth having
            notes.append(f"{name} could not be measured: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
    return made, notes


class Fid:
    """Frechet Inception distance to real pictures. All are brought to Inception's size with antialiasing first."""

    name = "fid"

    def __init__(self, images: Sequence[Path], device: torch.device, feature: Any = 2048) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.setting = f"{len(images)} real pictures in {images[0].parent.resolve()}"
        self._images: Sequence[Path] = images
        self._metric = FrechetInceptionDistance(feature=feature, reset_real_features=False).to(device)

    def score(self, pictures: Sequence[Path], prompts: Sequence[str], full: Sequence[Path], tick: Tick) -> float:
        """FID of the pictures; the first call looks at the real ones too."""
        for batch in _batches(self._images):
            self._metric.update(_uint8(batch, INCEPTION_SIDE).to(self._metric.device), real=True)
        self._images = ()
        self._metric.reset()
        for batch in _batches(pictures):
            self._metric.update(_uint8(batch, INCEPTION_SIDE).to(self._metric.device), real=False)
            tick(len(batch))
        return float(self._metric.compute())


class Clip:
    """CLIP score: mean cosine of picture and prompt, from 0 to 1, as the paper writes it.

    By transformers itself, because torchmetrics' own fails with transformers 5.
    """

    name = "clip"

    def __init__(self, model: str, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPProcessor

        self.setting = model
        self._model = CLIPModel.from_pretrained(model).eval().to(device)
        self._processor = CLIPProcessor.from_pretrained(model)

    def score(self, pictures: Sequence[Path], prompts: Sequence[str], full: Sequence[Path], tick: Tick) -> float:
        """Mean over the pictures."""
        cosines = []
        for batch, texts in zip(_batches(pictures), _batches(prompts), strict=True):
            shown = [Image.fromarray(pixels(file)) for file in batch]
            inputs = self._processor(
                text=list(texts), images=shown, return_tensors="pt", padding=True, truncation=True
            ).to(self._model.device)
            with torch.inference_mode():
                seen = self._model(**inputs)
            cosine = torch.nn.functional.cosine_similarity(seen.image_embeds, seen.text_embeds, dim=-1)
            cosines.append(cosine.clamp_min(0).float().cpu())
            tick(len(batch))
        return float(torch.cat(cosines).mean())


class Lpips:
    """Learned perceptual distance to the full model's pictures, AlexNet."""

    name = "lpips"
    setting = "alex"

    def __init__(self, device: torch.device) -> None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        self._metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device)

    def score(self, pictures: Sequence[Path], prompts: Sequence[str], full: Sequence[Path], tick: Tick) -> float:
        """Mean over the pictures."""
        self._metric.reset()
        for batch, others in zip(_batches(pictures, 4), _batches(full, 4), strict=True):
            shown = [_uint8(files).to(self._metric.device).float() / 255.0 for files in (batch, others)]
            self._metric.update(*shown)
            tick(len(batch))
        return float(self._metric.compute())


def _batches(items: Sequence[Any], size: int = BATCH) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _uint8(files: Sequence[Path], side: int | None = None) -> Tensor:
    """Pictures `[B, 3, H, W]` uint8, brought to `side` x `side` if asked."""
    loaded = []
    for file in files:
        picture = Image.fromarray(pixels(file))
        if side is not None:
            picture = picture.resize((side, side), Image.Resampling.BICUBIC)
        loaded.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    return torch.stack(loaded)
