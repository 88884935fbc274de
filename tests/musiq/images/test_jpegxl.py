"""JPEG XL through imagecodecs: sizes before decoding, depths, alpha and grey."""

from __future__ import annotations

import sys

import imagecodecs
import numpy as np
import pytest

from musiq.errors import ImageError
from musiq.images.decode import decode
from musiq.images.header import read_header
from tests.musiq.images.over import largest_difference, over
from tests.score_samples import scene

RGB = scene(1, 64, 97)
RGBA = np.dstack([RGB, scene(2, 64, 97)[..., 0]])


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("shape", [(64, 97), (64, 64), (40, 60), (8, 8), (1, 1), (300, 3), (3, 700)])
def test_sizes_are_known_before_decoding_and_pixels_are_read(shape: tuple[int, int], container: bool) -> None:
    image = scene(3, *shape)
    data = imagecodecs.jpegxl_encode(image, lossless=True, usecontainer=container)
    header = read_header(data)
    assert (header.format, header.height, header.width) == ("JPEG XL", *shape)
    np.testing.assert_array_equal(decode(data), image)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_samples_are_scaled(bits: int) -> None:
    deep = np.rint(RGB / 255 * (2**bits - 1)).astype(np.uint16)
    options = (
        {"lossless": True} if bits == 16 else {"distance": 0.05}
    )  # lossy: the encoder has no other way for 10 and 12 bits
    data = imagecodecs.jpegxl_encode(deep, bitspersample=bits, **options)
    assert read_header(data).depth == bits
    assert largest_difference(decode(data), RGB) <= 5


@pytest.mark.parametrize("background", [0, 255])
def test_alpha_is_laid_over_the_background_and_grey_repeated(background: int) -> None:
    name = "white" if background else "black"
    for image, wanted in (
        (RGBA, RGBA),
        (RGBA[..., [0, 3]], RGBA[..., [0, 0, 0, 3]]),
        (RGB[..., 0], RGB[..., [0, 0, 0]]),
    ):
        data = imagecodecs.jpegxl_encode(np.ascontiguousarray(image), lossless=True)
        assert largest_difference(decode(data, background=name), over(wanted, background)) <= 1  # type: ignore[arg-type]


def test_of_an_animation_the_first_frame_counts() -> None:
    data = imagecodecs.jpegxl_encode(np.stack([RGB, RGB[::-1]]), lossless=True)
    np.testing.assert_array_equal(decode(data), RGB)


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(ImageError, match="floating-point samples"):
        decode(imagecodecs.jpegxl_encode(RGB.astype(np.float32) / 255, lossless=True))
    data = imagecodecs.jpegxl_encode(RGB, lossless=True)
    for kept in (3, len(data) // 2, len(data) - 20):
        with pytest.raises(ImageError, match="cut short"):
            decode(data[:kept])
    with pytest.raises(ImageError, match="97x64 pixels; at most 1,000"):
        decode(data, max_pixels=1000)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = imagecodecs.jpegxl_encode(RGB, lossless=True)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match=r"pip install .*\[jpegxl\]'"):
        decode(data)
