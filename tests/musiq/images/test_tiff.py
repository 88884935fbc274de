"""Every kind of TIFF is read right or refused by name: a table of what TIFF's tags allow together.

What is right: the samples given to the file, which tifffile must read back, made RGB over white by the definitions of
TIFF 6.0 in floating point. Of JPEGs, which lose something, what tifffile reads.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import struct
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from musiq.errors import ImageError
from musiq.images.decode import decode
from tests.musiq.images.over import largest_difference
from tests.musiq.images.tiff_files import (
    COLOURS,
    COMPRESSIONS,
    EXTRAS,
    Kind,
    colour_map,
    directory_file,
    of_kind,
    samples,
    tiff_file,
)
from tests.score_samples import exif, saved, scene

BITS = ("1", "4", "8", "16", "32f")
READ_AND_REFUSED = {
    "white is 0": (76, 89),
    "black is 0": (101, 64),
    "rgb": (101, 64),
    "palette": (58, 107),
    "cmyk": (76, 89),
    "ycbcr": (8, 157),
}
"""How many kinds of each sort of colours are read and refused; the rest of 200 no encoder writes."""


def refusal(kind: Kind) -> str:
    """The words that name why a kind is refused; "" for what must be read."""
    if kind.bits == "32f":
        return "floating-point samples of 32 bits"
    if kind.compression == "zstd":
        return "Zstandard compression"
    if kind.photometric == "palette" and kind.bits == "16":
        return "a palette of 16 bits"
    if kind.photometric == "ycbcr" and (kind.bits != "8" or kind.extra != "none"):
        return "YCbCr colours in"
    if kind.extra == "associated" and kind.photometric not in ("black is 0", "rgb"):
        return "alpha multiplied into colours"
    return ""


def rgb_over(kind: Kind, stored: NDArray[Any], background: int = 255) -> NDArray[np.float64]:
    """What samples mean, in floating point."""
    top = 2**kind.depth - 1
    count = COLOURS[kind.photometric]
    values = stored[..., :count] / top * 255
    if kind.photometric == "palette":
        colour = colour_map(kind.depth).T[stored[..., 0]] / 257
    elif kind.photometric == "cmyk":
        colour = (255 - values[..., :3]) * (255 - values[..., 3:]) / 255
    elif kind.photometric == "ycbcr":
        light, blue, red = values[..., 0], values[..., 1] - 128, values[..., 2] - 128
        colour = np.stack(
            [light + 1.402 * red, light - 0.344136 * blue - 0.714136 * red, light + 1.772 * blue], axis=-1
        )
    else:
        colour = np.broadcast_to(255 - values if kind.photometric == "white is 0" else values, (*values.shape[:2], 3))
    if kind.extra in ("associated", "unassociated"):
        alpha = stored[..., count:] / top
        colour = (colour if kind.extra == "associated" else colour * alpha) + background * (1 - alpha)
    return np.clip(colour, 0, 255)


def by_tifffile(kind: Kind, data: bytes) -> NDArray[Any]:
    """The samples (height, width, bands) as another library reads them."""
    stored = np.asarray(tifffile.imread(io.BytesIO(data)))
    stored = stored.astype(np.uint8) if stored.dtype == bool else stored
    if kind.planar and kind.bands > 1:
        stored = np.moveaxis(stored, 0, -1)
    return stored[..., None] if stored.ndim == 2 else stored


def wanted(kind: Kind, image: NDArray[Any], data: bytes, background: int = 255) -> NDArray[np.float64]:
    stored = by_tifffile(kind, data)
    if kind.compression != "jpeg":
        np.testing.assert_array_equal(stored, image)
    elif kind.photometric == "ycbcr" and not kind.planar:
        return stored.astype(float)  # tifffile makes these RGB itself
    return rgb_over(kind, stored, background)


@pytest.mark.parametrize("photometric", READ_AND_REFUSED)
def test_every_kind_is_read_right_or_refused_by_name(photometric: str) -> None:
    compressions = [name for name in COMPRESSIONS if name != "packbits"]
    counts: Counter[str] = Counter()
    wrong = []
    for bits, planar, compression, extra in itertools.product(BITS, (False, True), compressions, EXTRAS):
        kind = Kind(bits, photometric, planar, compression, extra)
        image = samples(kind)
        try:
            data = of_kind(kind, image)
        except ValueError:
            continue
        try:
            found: Any = decode(data)
        except ImageError as problem:
            counts["refused"] += 1
            if not refusal(kind) or refusal(kind) not in str(problem):
                wrong.append((kind, str(problem)))
            continue
        counts["read"] += 1
        if refusal(kind) or largest_difference(found, wanted(kind, image, data)) > 1:
            wrong.append((kind, "read wrongly"))
    assert wrong == []
    assert (counts["read"], counts["refused"]) == READ_AND_REFUSED[photometric]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tile", [None, (16, 16), (16, 48)])
@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize(
    "kind",
    [
        Kind("16", "rgb", planar=True, compression="lzw"),
        Kind("16", "rgb", planar=True, compression="packbits"),
        Kind("16", "cmyk", compression="deflate"),
        Kind("16", "white is 0", compression="lzw"),
        Kind("8", "cmyk", compression="lzw", extra="unassociated"),
        Kind("8", "black is 0", compression="deflate", extra="unassociated"),
        Kind("8", "rgb", planar=True, compression="jpeg", extra="unassociated"),
        Kind("8", "rgb", planar=False, compression="lzw", extra="unspecified"),
    ],
    ids=str,
)
def test_strips_tiles_byte_orders_and_predictors_change_nothing(
    kind: Kind, order: str, big: bool, tile: tuple[int, int] | None, predictor: int
) -> None:
    if predictor == 2 and kind.compression in ("jpeg", "packbits"):
        predictor = 1
    image = samples(kind, 37, 53)
    data = of_kind(kind, image, order=order, big=big, tile=tile, more={317: predictor})
    assert largest_difference(decode(data), wanted(kind, image, data)) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize(
    "kind",
    [Kind("8", "rgb"), Kind("8", "rgb", planar=True), Kind("16", "rgb"), Kind("16", "rgb", planar=True)],
    ids=str,
)
def test_every_orientation_is_turned_upright_once(kind: Kind, tile: tuple[int, int] | None, orientation: int) -> None:
    image = samples(kind, 37, 53)
    upright = rgb_over(kind, image)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, -1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright),
    }
    data = of_kind(kind, image, tile=tile, more={274: orientation})
    assert largest_difference(decode(data), turned[orientation]) <= 1


@pytest.mark.parametrize("bits", [2, 10, 12, 14])
@pytest.mark.parametrize("photometric", ["white is 0", "black is 0", "rgb"])
@pytest.mark.parametrize("planar", [False, True])
def test_samples_of_odd_bits_are_scaled(bits: int, photometric: str, planar: bool) -> None:
    kind = Kind(str(bits), photometric, planar)
    image = samples(kind)
    assert largest_difference(decode(of_kind(kind, image)), rgb_over(kind, image)) <= 1


@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize("bits", ["8", "16"])
@pytest.mark.parametrize("extra", ["associated", "unassociated"])
@pytest.mark.parametrize("photometric", ["black is 0", "rgb"])
def test_alpha_is_laid_over_either_background(photometric: str, extra: str, bits: str, background: int) -> None:
    kind = Kind(bits, photometric, extra=extra)
    image = samples(kind)
    data = of_kind(kind, image)
    found = decode(data, background="white" if background else "black")
    assert largest_difference(found, wanted(kind, image, data, background)) <= 1


def test_bands_beyond_the_colours_are_left_out_and_a_grey_one_of_many_is_refused() -> None:
    image = np.dstack([scene(1, 21, 35), scene(2, 21, 35)])
    tags = {258: [8] * 6, 259: 5, 262: 2, 284: 1, 338: [0, 0, 0]}
    np.testing.assert_array_equal(decode(tiff_file(image, tags)), image[..., :3])
    with pytest.raises(ImageError, match="6 bands, of which it names one grey"):
        decode(tiff_file(image, {**tags, 262: 1, 338: [0] * 5}))
    with pytest.raises(ImageError, match="6 bands without saying what they are"):
        decode(tiff_file(image, {key: value for key, value in tags.items() if key != 338}))


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({259: 34712}, "JPEG 2000 compression"),
        ({259: 33005}, "JPEG 2000 compression"),
        ({259: 50002}, "JPEG XL compression"),
        ({259: 22610}, "JPEG XR compression"),
        ({259: 50001}, "WebP compression"),
        ({259: 6}, "old-style JPEG compression"),
        ({259: 12345}, "unknown .number 12345. compression"),
        ({262: 8}, "CIE Lab"),
        ({262: 32845}, "LogLuv"),
        ({262: 4}, "transparency mask"),
        ({262: 999}, "PhotometricInterpretation 999"),
        ({258: [24] * 3}, "samples of 24 bits"),
        ({258: [5, 6, 5]}, r"bands of \[5, 6\] bits"),
        ({339: [2] * 3}, "signed"),
        ({262: 5}, "3 bands, fewer than its colours need"),
        ({262: 32803}, "camera raw"),
    ],
)
def test_what_nothing_reads_is_named(tags: dict[int, Any], words: str) -> None:
    image = scene(1, 21, 35)
    plain = tiff_file(image, {258: [8] * 3, 259: 1, 262: 2, 284: 1})
    np.testing.assert_array_equal(decode(plain), image)
    entries = {256: 35, 257: 21, 258: [8] * 3, 259: 1, 262: 2, 277: 3, 278: 21, 284: 1, **tags}
    with pytest.raises(ImageError, match=words) as caught:
        decode(directory_file([(entries, [image.tobytes()], 273, 279)]))
    assert "cut short" not in str(caught.value)


def photo_and_thumbnail(
    photo: dict[int, Any], thumbnail: dict[int, Any], below: bool
) -> tuple[bytes, NDArray[np.uint8]]:
    small, large = scene(1, 12, 16), scene(2, 60, 80)
    entries = [
        ({256: w, 257: h, 258: [8] * 3, 259: 1, 262: 2, 277: 3, 278: h, 284: 1, **tags}, [image.tobytes()], 273, 279)
        for image, (h, w), tags in ((small, (12, 16), thumbnail), (large, (60, 80), photo))
    ]
    return directory_file(entries, below=[1] if below else []), large


@pytest.mark.parametrize("below", [True, False])
def test_a_thumbnail_that_comes_first_is_not_the_photo(below: bool) -> None:
    data, photo = photo_and_thumbnail({}, {254: 1}, below)
    np.testing.assert_array_equal(decode(data), photo)
    with pytest.raises(ImageError, match="80x60 pixels; at most 1,000"):
        decode(data, max_pixels=1000)


def test_of_the_pages_of_a_document_the_first_counts() -> None:
    data, _ = photo_and_thumbnail({}, {}, below=False)
    np.testing.assert_array_equal(decode(data), scene(1, 12, 16))


@pytest.mark.parametrize("photometric", [32803, 34892])
@pytest.mark.parametrize("marked", [{254: 1}, {}])
def test_a_camera_raw_is_refused_and_its_thumbnail_not_scored(marked: dict[int, Any], photometric: int) -> None:
    data, _ = photo_and_thumbnail({262: photometric}, marked, below=True)
    with pytest.raises(ImageError, match="camera raw file"):
        decode(data)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "jpeg"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", ["8", "16"])
def test_samples_that_end_early_are_refused_though_the_tags_come_first(
    bits: str, planar: bool, compression: str, kept: float
) -> None:
    """As a download that stops leaves them: libtiff fills in black."""
    kind = Kind(bits, "rgb", planar, compression)
    if (bits, compression) == ("16", "jpeg"):
        pytest.skip("no encoder writes it")
    whole = of_kind(kind, samples(kind, 120, 160), tags_first=True)
    assert decode(whole).shape == (120, 160, 3)
    with pytest.raises(ImageError, match="cut short"):
        decode(whole[: int(kept * len(whole))])


@pytest.mark.parametrize("tile", [None, (16, 16)], ids=["strips", "tiles"])
@pytest.mark.parametrize("listed", ["places", "sizes"])
@pytest.mark.parametrize("kind", [Kind(), Kind("16", planar=True), Kind(compression="lzw")], ids=str)
def test_too_few_strips_or_tiles_are_refused(kind: Kind, listed: str, tile: tuple[int, int] | None) -> None:
    data = bytearray(of_kind(kind, samples(kind, 120, 160), tile=tile))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    wanted = (324 if tile else 273) + (listed == "sizes") * (1 if tile else 6)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, values = struct.unpack_from("<HHI", data, at)
        if tag == wanted:
            struct.pack_into("<I", data, at + 4, values - 1)
    with pytest.raises(ImageError, match=f"names too few {'tiles' if tile else 'strips'}"):
        decode(bytes(data))


@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", ["8", "16"])
@pytest.mark.parametrize(("width", "rows"), [(160, 8), (161, 8), (161, 7), (161, 1)])
def test_damaged_strips_are_refused_and_not_black(
    width: int, rows: int, bits: str, planar: bool, compression: str
) -> None:
    kind = Kind(bits, "rgb", planar, compression)
    data = bytearray(of_kind(kind, samples(kind, 121, width), rows=rows))
    assert decode(bytes(data)).shape == (121, width, 3)
    data[8 : len(data) // 2] = b"\x80" * (len(data) // 2 - 8)  # which packbits skips, and the others do not know
    with pytest.raises(ImageError, match="cut short or corrupt"):
        decode(bytes(data))


@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "packbits"])
@pytest.mark.parametrize("kind", [Kind("1", "palette"), Kind("8", "rgb"), Kind("16", "rgb", planar=True)], ids=str)
def test_files_whose_lowest_bit_comes_first_are_read(kind: Kind, compression: str) -> None:
    kind = dataclasses.replace(kind, compression=compression)
    image = samples(kind)
    data = bytearray(of_kind(kind, image, more={266: 2}))
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    for at, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        stored = np.frombuffer(bytes(data[at : at + size]), np.uint8)
        data[at : at + size] = np.packbits(np.unpackbits(stored), bitorder="little").tobytes()
    assert largest_difference(decode(bytes(data)), rgb_over(kind, image)) <= 1


def test_what_libraries_write_is_read() -> None:
    image = scene(3, 40, 60)
    deep = image.astype(np.uint16) * 257
    for options in ({}, {"compression": "lzw", "predictor": True}, {"tile": (16, 16)}, {"bigtiff": True}):
        for planar in ("contig", "separate"):
            buffer = io.BytesIO()
            pixels = deep if planar == "contig" else np.moveaxis(deep, -1, 0)
            tifffile.imwrite(buffer, pixels, photometric="rgb", planarconfig=planar, **options)
            np.testing.assert_array_equal(decode(buffer.getvalue()), image)
    for mode in ("1", "L", "LA", "P", "CMYK", "I;16"):
        written = Image.fromarray(deep[..., 0]) if mode == "I;16" else Image.fromarray(image).convert(mode)
        back = Image.open(io.BytesIO(saved(written, "tiff")))
        want = image[..., [0, 0, 0]] if mode == "I;16" else np.asarray(back.convert("RGB"))
        assert largest_difference(decode(saved(written, "tiff")), want) <= 1
    assert decode(saved(image, "tiff", exif=exif(6))).shape == (60, 40, 3)


def test_an_endless_chain_of_pages_is_followed_once() -> None:
    data = bytearray(tiff_file(scene(1, 21, 35), {258: [8] * 3, 259: 1, 262: 2, 284: 1, 254: 1}))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    np.testing.assert_array_equal(decode(bytes(data)), scene(1, 21, 35))
