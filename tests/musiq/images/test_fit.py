"""Images of any size are made to fit by covering and cropping, or get the size that a policy says."""

from __future__ import annotations

import numpy as np
import pytest

from musiq.errors import MusiqError
from musiq.images import fit
from musiq.images.fit import Resize, scale_to
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


@pytest.mark.parametrize("text", ["native", "cover", "longer=512", "shorter=1", "longer=65535,enlarge"])
def test_a_policy_is_named_as_it_is_written(text: str) -> None:
    assert str(Resize.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "Native",
            "native=3",
            "longer",
            "longer=",
            "longer=0",
            "longer=-5",
            "longer=1e3",
            "longer=65536",
            "longer= 5",
        ),
        *("longer=012", "shorter=12.5", "wider=5", "longer=5,enlarge,enlarge", "cover,enlarge", "longer=5 ", None, 5),
    ],
)
def test_what_names_no_policy_is_refused(text: str) -> None:
    with pytest.raises(MusiqError, match=r"There is no resize policy .* expected native, cover, longer=N or shorter=N"):
        Resize.parse(text)


def test_a_resized_side_has_its_length_and_the_other_keeps_the_aspect() -> None:
    draw = np.random.default_rng(3)
    for height, width, length in draw.integers(1, 3000, (500, 3)).tolist():
        for kind, side in (("longer", max), ("shorter", min)):
            size = Resize(kind, length, enlarges=True).size(height, width)
            assert side(size) == length
            for pixels, exact in zip(size, (height * length, width * length), strict=True):
                assert abs(pixels - exact / side(height, width)) <= 0.5 or pixels == 1
            kept = Resize(kind, length).size(height, width)
            assert kept == (size if length < side(height, width) else (height, width))
    assert Resize("native").size(7, 9) == (7, 9)


def test_extreme_shapes_keep_at_least_a_pixel() -> None:
    assert Resize("longer", 100).size(1, 65535) == (1, 100)
    assert Resize("shorter", 2).size(3, 60000) == (2, 40000)
    for shape, size in (((1, 65535), (1, 100)), ((65535, 2), (40000, 1)), ((1, 1), (9, 9)), ((1, 700), (60, 42000))):
        image, _ = scale_to(np.full((*shape, 3), 77, np.uint8), *size)
        assert image.shape == (*size, 3)
        assert (image == 77).all()


def test_a_whole_image_is_shrunk_by_averaging_areas_and_said_so() -> None:
    large = scene(4, 80, 120)
    image, said = scale_to(large, 40, 60)
    assert np.abs(image - large.reshape(40, 2, 60, 2, 3).mean(axis=(1, 3))).max() <= 0.5
    assert said == "resized 0.5x"
    assert scale_to(large, 160, 240)[1] == "resized 2x"
    assert scale_to(large, 40, 60, reduction=2)[1] == "decoded at 1/2; resized 0.5x"
    same, said = scale_to(large, 80, 120)
    assert (same is large, said) == (True, "")
