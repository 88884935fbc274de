"""Images of any size are made to fit by covering and cropping."""

from __future__ import annotations

import numpy as np
import pytest

from musiq.errors import MusiqError
from musiq.images import fit
from tests.score_samples import scene

RGB = scene(1, 40, 60)


def test_fit_leaves_an_image_that_fits_alone() -> None:
    same, said = fit(RGB, 40, 60)
    assert said == ""
    assert same is RGB


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((80, 120), "resized 0.5x"),
        ((20, 30), "resized 2x"),
        ((40, 80), "cropped 80x40 to 60x40"),
        ((160, 120), "resized 0.5x; cropped 60x80 to 60x40"),
        ((100, 100), "resized 0.6x; cropped 60x60 to 60x40"),
        ((1, 1), "resized 60x; cropped 60x60 to 60x40"),
    ],
)
def test_fit_covers_and_crops_and_says_so(shape: tuple[int, int], said: str) -> None:
    got, how = fit(scene(2, *shape), 40, 60)
    assert got.shape == (40, 60, 3)
    assert got.flags.c_contiguous
    assert how == said


def test_fit_keeps_the_middle() -> None:
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 20:80] = RGB
    np.testing.assert_array_equal(fit(wide, 40, 60)[0], RGB)
    tall = np.zeros((80, 60, 3), np.uint8)
    tall[20:60] = RGB
    np.testing.assert_array_equal(fit(tall, 40, 60)[0], RGB)


def test_fit_shrinks_by_averaging_areas() -> None:
    large = scene(4, 80, 120)
    means = large.reshape(40, 2, 60, 2, 3).mean(axis=(1, 3))
    assert np.abs(fit(large, 40, 60)[0] - means).max() <= 0.5


def test_fit_always_covers_whatever_the_aspect() -> None:
    for rows, columns in np.random.default_rng(0).integers(1, 400, (300, 2)):
        got, _ = fit(np.zeros((rows, columns, 3), np.uint8), 37, 53)
        assert got.shape == (37, 53, 3)


def test_sizes_below_1_are_refused() -> None:
    with pytest.raises(MusiqError, match="height is 0; expected a whole number of at least 1"):
        fit(np.zeros((4, 4, 3), np.uint8), 0, 5)
