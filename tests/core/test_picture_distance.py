"""PSNR and SSIM of pictures, against what they are defined to be."""

from __future__ import annotations

import pytest
import torch

from report.distance import MOST_PSNR, distance


def pictures(seed: int, batch: int = 1, size: tuple[int, int] = (24, 32)) -> torch.Tensor:
    coarse = torch.rand(batch, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1).movedim(1, -1)


def test_equal_pictures_are_as_near_as_it_gets() -> None:
    found = distance(pictures(1), pictures(1))
    assert found is not None
    assert (found.psnr, found.ssim) == (MOST_PSNR, pytest.approx(1.0))


@pytest.mark.parametrize("offset", [0.1, 0.01])
def test_psnr_is_that_of_the_mean_square(offset: float) -> None:
    picture = pictures(1) * 0.5
    found = distance(picture + offset, picture)
    assert found is not None
    assert found.psnr == pytest.approx({0.1: 20.0, 0.01: 40.0}[offset], abs=0.01)


def test_ssim_falls_where_structure_goes() -> None:
    picture = pictures(1)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(2))
    near, far, other = (distance(one, picture) for one in (picture + 0.02 * noise, picture + 0.2 * noise, pictures(3)))
    assert near is not None
    assert far is not None
    assert other is not None
    assert 1.0 > near.ssim > far.ssim > other.ssim


def test_pictures_of_a_batch_count_alike_and_other_sizes_are_not_compared() -> None:
    batch, one = pictures(1, batch=2), pictures(2)
    found, first, second = (
        distance(batch, pictures(5, 2)),
        *(distance(batch[i : i + 1], pictures(5, 2)[i : i + 1]) for i in (0, 1)),
    )
    assert found is not None
    assert first is not None
    assert second is not None
    assert found.psnr == pytest.approx((first.psnr + second.psnr) / 2)
    assert distance(one, pictures(2, size=(32, 24))) is None
