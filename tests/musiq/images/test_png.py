"""PNG's transparency in every colour type and depth, over white and black, and the PNGs that only Apple reads."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from musiq.errors import ImageError
from musiq.images.decode import decode
from tests.musiq.images.over import largest_difference, over
from tests.score_samples import exif, saved, scene

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
BANDS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
PILLOW_ERRS = {(GREY, 2, True), (GREY, 4, True), (GREY, 16, False), (GREY, 16, True), (RGB, 16, True)}
"""Kinds that Pillow reads otherwise than the standard says, by comparing scaled samples, or not scaling them."""

HEIGHT, WIDTH = 13, 21


@dataclass(frozen=True)
class Made:
    """A file and what it shows: (height, width, 4), colours and alpha in [0, 255]."""

    data: bytes
    wanted: NDArray[np.float64]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: NDArray[np.uint16], depth: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of samples (height, width, bands), with these chunks before the pixels."""
    height, width, _ = samples.shape
    if depth == 16:
        rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        ones = np.unpackbits(samples.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = np.packbits(ones.reshape(height, -1), axis=1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def paletted(depth: int, transparent: bool) -> Made:
    numbers = np.rint(scene(3, HEIGHT, WIDTH)[..., :1] / 255 * (2**depth - 1)).astype(np.uint16)
    colours, alphas = scene(5, 1, 2**depth)[0], scene(6, 1, 2**depth)[0, :, 0]
    alphas[max(1, 3 * 2**depth // 4) :] = 255  # those that the chunk leaves out
    chunks = [chunk(b"PLTE", colours.tobytes())]
    if transparent:
        chunks.append(chunk(b"tRNS", alphas[: max(1, 3 * 2**depth // 4)].tobytes()))
    else:
        alphas[:] = 255
    wanted = np.column_stack([colours, alphas])[numbers[..., 0]]
    return Made(png(numbers, depth, PALETTE, *chunks), wanted.astype(float))


def made(colour: int, depth: int, transparent: bool) -> Made:
    """Of grey and RGB one value is `transparent`: a dark one, that another differs from in its last bit alone."""
    if colour == PALETTE:
        return paletted(depth, transparent)
    top, count = 2**depth - 1, 1 if colour in (GREY, GREY_ALPHA) else 3
    image = np.dstack([scene(3, HEIGHT, WIDTH), scene(4, HEIGHT, WIDTH)])[..., : BANDS[colour]]
    samples = np.rint(image / 255 * top).astype(np.uint16)
    key = np.array([top // 3, top // 5, top // 4][:count], np.uint16)
    samples[2:5, 3:9, :count], samples[7, 7, :count] = key, key ^ 1
    alpha = samples[..., count:] / top * 255 if BANDS[colour] > count else np.full((HEIGHT, WIDTH, 1), 255.0)
    chunks = []
    if transparent:
        alpha = np.where((samples == key).all(axis=-1, keepdims=True), 0.0, 255.0)
        chunks.append(chunk(b"tRNS", struct.pack(f">{count}H", *key)))
    colours = np.broadcast_to(samples[..., :count] / top * 255, (HEIGHT, WIDTH, 3))
    return Made(png(samples, depth, colour, *chunks), np.dstack([colours, alpha]))


@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize(
    ("colour", "depth", "transparent"),
    [
        (colour, depth, transparent)
        for colour, depths in DEPTHS.items()
        for depth in depths
        for transparent in ((False, True) if colour in (GREY, RGB, PALETTE) else (False,))
    ],
)
def test_every_colour_type_depth_and_transparency_is_read(
    colour: int, depth: int, transparent: bool, background: int
) -> None:
    file = made(colour, depth, transparent)
    found = decode(file.data, background="white" if background else "black")
    assert largest_difference(found, over(file.wanted, background)) <= 1
    if (colour, depth, transparent) not in PILLOW_ERRS:
        by_pillow = np.asarray(Image.open(io.BytesIO(file.data)).convert("RGBA"), float)
        assert largest_difference(found, over(by_pillow, background)) <= 1.5  # it rounds 16 bits and alpha by itself


def test_a_png_as_xcode_packs_it_is_named() -> None:
    data = made(RGB, 8, transparent=False).data
    packed = data[:8] + chunk(b"CgBI", b"\x50\0\x20\x06") + data[8:]
    with pytest.raises(ImageError, match=r"Xcode packs it into apps \(CgBI\)"):
        decode(packed)


def test_a_damaged_animation_is_refused_and_not_filled_with_whatever_memory_holds() -> None:
    frames = [Image.fromarray(scene(seed, 60, 80)) for seed in (3, 4, 5)]
    data = saved(frames[0], "png", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(data), scene(3, 60, 80))
    at = data.index(b"IDAT")
    damaged = data[: at + 2000] + bytes(2000) + data[at + 4000 :]
    with pytest.raises(ImageError, match="damaged"):
        decode(damaged)


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"], ids=["as the standard has it", "as in a JPEG"])
def test_the_orientation_of_exif_is_honoured(prefix: bytes) -> None:
    image = scene(1, HEIGHT, WIDTH)
    block = prefix + bytes(exif(6)).removeprefix(b"Exif\0\0")
    found = decode(png(image.astype(np.uint16), 8, RGB, chunk(b"eXIf", block)))
    np.testing.assert_array_equal(found, np.rot90(image, -1))
