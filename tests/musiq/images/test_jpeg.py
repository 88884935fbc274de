"""JPEGs beside the ordinary: videos appended, two EXIF blocks, and the kinds that OpenCV has no decoder for."""

from __future__ import annotations

import cv2
import imagecodecs
import numpy as np
import pytest

from musiq.errors import ImageError
from musiq.images.decode import decode
from tests.score_samples import exif, saved, scene

RGB = scene(1, 40, 60)


def with_blocks(data: bytes, *orientations: int) -> bytes:
    """A JPEG with one EXIF block for each orientation, in this order."""
    blocks = b""
    for orientation in orientations:
        block = b"Exif\0\0" + exif(orientation).removeprefix(b"Exif\0\0")
        blocks += b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block
    return data[:2] + blocks + data[2:]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_video_appended_to_a_photo_changes_nothing(options: dict[str, object]) -> None:
    photo = saved(RGB, "jpeg", **options)
    video = np.random.default_rng(0).integers(0, 256, 16_000_000, np.uint8).tobytes()
    assert video.count(b"\xff\xda") > 200
    np.testing.assert_array_equal(decode(photo + video), decode(photo))


def test_too_many_scans_before_the_end_are_refused_whatever_is_appended() -> None:
    data = saved(RGB, "jpeg", progressive=True)
    at = data.index(b"\xff\xda")
    scan = data[at : data.index(b"\xff\xda", at + 2)]
    with pytest.raises(ImageError, match="more than 200 scans"):
        decode(data[:at] + scan * 201 + data[at:] + b"a video")


@pytest.mark.parametrize(("first", "second"), [(6, 1), (1, 6), (3, 8)])
def test_of_two_exif_blocks_the_first_counts(first: int, second: int) -> None:
    plain = saved(RGB, "jpeg")
    np.testing.assert_array_equal(decode(with_blocks(plain, first, second)), decode(with_blocks(plain, first)))


def test_deep_and_lossless_jpegs_are_named() -> None:
    with pytest.raises(ImageError, match="This JPEG has 12 bits a sample"):
        decode(imagecodecs.jpeg8_encode(RGB.astype(np.uint16) * 16, bitspersample=12))
    with pytest.raises(ImageError, match="This lossless JPEG has 16 bits a sample"):
        decode(imagecodecs.jpeg8_encode(RGB.astype(np.uint16) * 257, lossless=True, bitspersample=16))


def test_a_lossless_jpeg_of_8_bits_is_read_or_named() -> None:
    data = imagecodecs.jpeg8_encode(RGB, lossless=True)
    if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None:  # an older OpenCV
        with pytest.raises(ImageError, match="OpenCV knows no lossless JPEG"):
            decode(data)
    else:
        np.testing.assert_array_equal(decode(data), RGB)


def test_a_kind_of_jpeg_that_opencv_has_no_decoder_for_is_named() -> None:
    data = bytearray(saved(RGB, "jpeg"))
    data[data.index(b"\xff\xc0") + 1] = 0xC5
    with pytest.raises(ImageError, match="OpenCV knows no hierarchical JPEG"):
        decode(bytes(data))
