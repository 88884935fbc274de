"""Every version of BMP's header with every kind of pixels: read as the masks say, or refused by name."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from musiq.errors import ImageError
from musiq.images.decode import decode
from tests.musiq.images.over import largest_difference, over
from tests.score_samples import saved, scene

HEIGHT, WIDTH = 13, 21
RGB, ALPHA = scene(1, HEIGHT, WIDTH), scene(2, HEIGHT, WIDTH)[..., 0]
HEADERS = (40, 52, 56, 64, 108, 124)
MASKS = {
    "565": (16, 0xF800, 0x7E0, 0x1F),
    "555": (16, 0x7C00, 0x3E0, 0x1F),
    "444": (16, 0xF00, 0xF0, 0xF),
    "888": (32, 0xFF0000, 0xFF00, 0xFF),
    "888 reversed": (32, 0xFF, 0xFF00, 0xFF0000),
    "888 high": (32, 0xFF000000, 0xFF0000, 0xFF00),
    "10 10 10": (32, 0x3FF00000, 0xFFC00, 0x3FF),
}
ALPHA_MASKS = {
    "8888": (32, 0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    "8888 reversed": (32, 0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    "8888 low": (32, 0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    "5551": (16, 0x7C00, 0x3E0, 0x1F, 0x8000),
    "4444": (16, 0xF00, 0xF0, 0xF, 0xF000),
}

Case = tuple[str, bytes, NDArray[np.float64]]
"""Its name, a file and the pixels wanted, (height, width, 3), or 4 with alpha."""


def rows(pixels: NDArray[np.generic], top_down: bool = False) -> bytes:
    """Pixels of whole bytes, each row filled up to four."""
    lines = np.ascontiguousarray(pixels if top_down else pixels[::-1]).view(np.uint8).reshape(HEIGHT, -1)
    return np.pad(lines, [(0, 0), (0, -lines.shape[1] % 4)]).tobytes()


def bmp(
    header: int,
    bits: int,
    body: bytes,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: NDArray[np.uint8] | None = None,
    top_down: bool = False,
) -> bytes:
    count = 0 if palette is None else len(palette)
    if header == 12:
        head = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        height = -HEIGHT if top_down else HEIGHT
        head = struct.pack("<IiiHHIIiiII", header, WIDTH, height, 1, bits, compression, len(body), 2835, 2835, count, 0)
        head += struct.pack(f"<{len(masks)}I", *masks)
    head = head.ljust(header, b"\0")
    if palette is not None:
        head += b"".join(bytes(colour[::-1]) + b"\0" * (header != 12) for colour in palette)
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + body


def masked(bits: int, *masks: int) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Pixels whose samples lie below masks, and what is left of the colours with so few bits."""
    pixels, wanted = np.zeros((HEIGHT, WIDTH), np.uint32), []
    for band, mask in zip(np.moveaxis(np.dstack([RGB, ALPHA]), 2, 0), masks, strict=False):
        shift = (mask & -mask).bit_length() - 1
        sample = np.rint(band / 255 * (mask >> shift)).astype(np.uint32)
        pixels |= sample << shift
        wanted.append(sample / (mask >> shift) * 255)
    return pixels.astype(f"<u{bits // 8}"), np.dstack(wanted)


def paletted(header: int, bits: int) -> Case:
    colours = scene(5, 1, 2**bits)[0]
    numbers = (scene(3, HEIGHT, WIDTH)[..., 0].astype(int) * 2**bits // 256).astype(np.uint8)
    packed = np.packbits(np.unpackbits(numbers[..., None], axis=-1)[..., 8 - bits :].reshape(HEIGHT, -1), axis=1)
    return f"palette {bits}", bmp(header, bits, rows(packed), palette=colours), colours[numbers].astype(float)


def cases(header: int) -> Iterator[Case]:
    yield "24", bmp(header, 24, rows(RGB[..., ::-1])), RGB
    for bits in (1, 4, 8):
        yield paletted(header, bits)
    if header == 12:
        return
    pixels, wanted = masked(*MASKS["555"])
    yield "16", bmp(header, 16, rows(pixels)), wanted
    for fourth in (np.uint8(0), np.uint8(255), ALPHA):
        body = rows(np.dstack([RGB[..., ::-1], np.broadcast_to(fourth, (HEIGHT, WIDTH))]))
        yield "32, no alpha whatever the fourth byte", bmp(header, 32, body), RGB
    for name, (bits, *masks) in MASKS.items():
        pixels, wanted = masked(bits, *masks)
        for top_down in (False, True):
            body = rows(pixels, top_down)
            yield f"{name}, {top_down=}", bmp(header, bits, body, 3, tuple(masks), top_down=top_down), wanted
    for name, (bits, *masks) in ALPHA_MASKS.items():
        pixels, wanted = masked(bits, *masks)
        yield f"{name}, alpha", bmp(header, bits, rows(pixels), 6, tuple(masks)), wanted
        if header >= 56:
            yield f"{name}, alpha in the header", bmp(header, bits, rows(pixels), 3, tuple(masks)), wanted


@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize("header", [12, *HEADERS])
def test_every_header_with_every_kind_of_pixels_is_read(header: int, background: int) -> None:
    count = 0
    for name, data, wanted in cases(header):
        found = decode(data, background="white" if background else "black")
        assert largest_difference(found, over(wanted, background)) <= 1, name
        count += 1
    assert count == (4 if header == 12 else 27 if header < 56 else 32)


@pytest.mark.parametrize("header", [40, 108])
def test_where_pillow_reads_a_kind_it_reads_the_same(header: int) -> None:
    for name, data, _ in cases(header):
        try:
            image = Image.open(io.BytesIO(data))
        except OSError:
            continue  # masks that it does not know
        if "5551" in name:
            continue  # whose alpha it leaves out
        assert largest_difference(decode(data), over(np.asarray(image.convert("RGBA"), float), 255)) <= 1.5, name


def run_lengths(bits: int) -> tuple[bytes, NDArray[np.uint8], NDArray[np.uint8]]:
    """Rows of runs of one or two pixels in RLE8 or RLE4, and the palette and numbers that they are of."""
    colours = scene(5, 1, 2**bits)[0]
    numbers = (scene(3, HEIGHT, WIDTH)[..., 0].astype(int) * 2**bits // 256).astype(np.uint8)
    body = b""
    for row in numbers[::-1]:
        body += b"".join(bytes([1, value if bits == 8 else value << 4]) for value in row) + b"\0\0"
    return body + b"\0\1", colours, numbers


@pytest.mark.parametrize(("bits", "compression"), [(8, 1), (4, 2)])
@pytest.mark.parametrize("header", HEADERS)
def test_run_lengths_are_read(header: int, bits: int, compression: int) -> None:
    body, colours, numbers = run_lengths(bits)
    np.testing.assert_array_equal(decode(bmp(header, bits, body, compression, palette=colours)), colours[numbers])


@pytest.mark.parametrize(
    ("header", "bits", "compression", "masks", "words"),
    [
        (40, 24, 4, (), "JPEG or RLE24 compression"),
        (40, 24, 5, (), "PNG compression"),
        (40, 24, 11, (), r"unknown \(number 11\) compression"),
        (40, 2, 0, (), "pixels of 2 bits"),
        (64, 1, 3, (), "pixels of 1 bits in compression 3"),
        (16, 24, 0, (), "a header of 16 bytes"),
        (40, 32, 3, (0xFF00FF, 0xFF00, 0), "masks of colours"),
    ],
)
def test_what_nothing_reads_is_named(
    header: int, bits: int, compression: int, masks: tuple[int, ...], words: str
) -> None:
    body = bytes(4 * WIDTH * HEIGHT)
    with pytest.raises(ImageError, match=f"This BMP has .*{words}"):
        decode(bmp(40, bits, body, compression, masks).replace(struct.pack("<I", 40), struct.pack("<I", header), 1))


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_pixels_that_end_early_are_refused(kept: float) -> None:
    for _, data, _ in (*cases(12), *cases(40)):
        with pytest.raises(ImageError, match="cut short"):
            decode(data[: int(kept * len(data))])


def test_what_pillow_writes_is_read() -> None:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        image = Image.fromarray(RGB).convert(mode)
        np.testing.assert_array_equal(decode(saved(image, "bmp")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("start", [0, 20, 53])
@pytest.mark.parametrize("bits", [16, 24])
def test_pixels_that_begin_inside_the_headers_are_refused(bits: int, start: int) -> None:
    data = bmp(40, bits, bytes(4 * WIDTH * HEIGHT))
    with pytest.raises(ImageError, match=f"begin at byte {start}, inside its headers"):
        decode(data[:10] + struct.pack("<I", start) + data[14:])
