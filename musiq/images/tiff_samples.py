"""Reads the samples of TIFF files that OpenCV reads wrongly or not at all, as uint8 RGB or RGBA.

OpenCV's libtiff still decompresses them: strips and tiles hold rows of bytes, and whatever those mean, a grey image as
wide as a row has bytes, or half as wide in 16 bits, has the same ones. So a directory that says so is written behind the
file's own, and what libtiff gives for it is made samples here.

Neither library that people take for TIFFs would do instead: Pillow has no colours of 16 bits, and tifffile no LZW and
JPEG but through imagecodecs, which is larger than all else that scoring installs.
"""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError
from musiq.images import tiff
from musiq.images.tiff import Directory, Layout

Samples = NDArray[np.uint8]

MAX_COLUMNS, MAX_SIZE = 2**20 - 1, 2**30
"""The columns and pixels of the largest image that OpenCV decodes."""

KEPT = (257, 259, 266, 278, 323)
"""Tags of a directory that say nothing about samples: height, compression, order of bits, rows of a strip or tile."""

JPEG_TABLES = 347

MOST_INFLATED = 1100
"""How many times its bytes deflate can hold, which bounds what a damaged file makes room for."""


def read_samples(directory: Directory, layout: Layout) -> Samples:
    """uint8 (H, W, 3) RGB, or (H, W, 4) RGBA where the layout has alpha, as stored, not turned.

    Raises ImageError for samples that cannot be decompressed or are too many, struct.error where some are missing.
    """
    planes = range(layout.samples if layout.planar else 1)
    bands = [band for plane in planes for band in _bands(directory, layout, plane)]
    colours = tiff.COLOURS[layout.photometric]
    image = _rgb(bands[:colours], directory, layout)
    if not layout.alpha:
        return image
    alpha = bands[colours + layout.extra.index(layout.alpha)]
    if layout.photometric == tiff.PALETTE:
        alpha = _scaled(alpha, layout.bits)
    return np.dstack([image, alpha])


def _bands(directory: Directory, layout: Layout, plane: int) -> list[Samples]:
    """The bands (H, W) of one plane, or all those of an image that is not planar: scaled to 8 bits, but for palettes."""
    count = 1 if layout.planar else layout.samples
    width = directory.number(322) or layout.width
    rows = _rows(directory, layout, plane)
    samples = _unpacked(rows, layout.bits, width * count, directory.order).reshape(len(rows), width, count)
    if layout.predictor == 2 and layout.compression in tiff.PREDICTED:
        np.cumsum(samples, axis=1, dtype=samples.dtype, out=samples)
    samples = np.ascontiguousarray(samples.reshape(layout.height, -1, count)[:, : layout.width])
    if layout.photometric != tiff.PALETTE:
        samples = _scaled(samples.reshape(layout.height, -1), layout.bits).reshape(samples.shape)
    return [np.asarray(samples[..., band], np.uint8, order="C") for band in range(count)]


def _rows(directory: Directory, layout: Layout, plane: int) -> Samples:
    """The bytes (H * across, bytes) of one plane's rows, decompressed, those of tiles beside each other one by one."""
    rows, row_bytes = tiff.piece_shape(directory, layout)
    tiled = 322 in directory.entries
    across = -(-layout.width // directory.number(322)) if tiled else 1
    down = -(-layout.height // rows)
    first, count = plane * across * down, across * down
    places, sizes = (values[first : first + count] for values in tiff.pieces(directory))
    if len(places) < count or len(sizes) < count:
        raise struct.error("there are too few strips or tiles")
    if layout.compression not in (tiff.NO_COMPRESSION, *tiff.DEFLATES) or directory.number(266) == 2:
        return _decompressed(directory, layout, places, sizes).reshape(-1, row_bytes)
    if down * rows * across * row_bytes > MOST_INFLATED * len(directory.data) + rows * across * row_bytes:
        raise struct.error("there are fewer bytes than samples")
    found = np.empty((down, rows, across, row_bytes), np.uint8)
    for number, (place, size) in enumerate(zip(places, sizes, strict=True)):
        there = rows if tiled else min(rows, layout.height - number * rows)
        piece = _piece(directory.data, place, size, there * row_bytes, layout.compression)
        found[number // across, :there, number % across] = piece.reshape(there, row_bytes)
    return found.reshape(-1, across, row_bytes)[: layout.height].reshape(-1, row_bytes)


def _piece(data: bytes, place: int, size: int, count: int, compression: int) -> Samples:
    """The first `count` bytes that one strip or tile holds, without compression or with deflate's."""
    piece: bytes | memoryview = memoryview(data)[place : place + count]
    if compression != tiff.NO_COMPRESSION:
        try:
            piece = zlib.decompressobj().decompress(data[place : place + size], count)
        except zlib.error as problem:
            raise struct.error("a strip or tile is damaged") from problem
    if len(piece) < count:
        raise struct.error("a strip or tile ends early")
    return np.frombuffer(piece, np.uint8)


def _decompressed(directory: Directory, layout: Layout, places: list[int], sizes: list[int]) -> Samples:
    """The bytes (H, W) that strips or tiles hold, by libtiff."""
    row_bytes = tiff.piece_shape(directory, layout)[1]
    tiled = 322 in directory.entries
    # As 16 bits where rows allow it: then libtiff stops at damage, and takes no four bytes for each of grey.
    deep = row_bytes % 2 == 0 and layout.compression != tiff.JPEG
    piece_width = row_bytes // 2 if deep else row_bytes
    width = piece_width * (-(-layout.width // directory.number(322)) if tiled else 1)
    if width > MAX_COLUMNS or width * layout.height > MAX_SIZE:
        raise ImageError(
            f"This TIFF of {layout.width}x{layout.height} pixels is too large to be read with {layout.samples} bands of "
            f"{layout.bits} bits. Save it in 8 bits, or smaller."
        )
    tags = {tag: directory.numbers(tag) for tag in KEPT if tag in directory.entries}
    tags |= {256: [width], 258: [16 if deep else 8], 262: [tiff.BLACK_IS_0], 277: [1], 284: [1]}
    tags |= {322: [piece_width], 324: places, 325: sizes} if tiled else {273: places, 279: sizes}
    file = np.frombuffer(_with_directory(directory, tags), np.uint8)
    image = cv2.imdecode(file, cv2.IMREAD_UNCHANGED)
    if image is None or image.shape != (layout.height, width):
        raise struct.error("a strip or tile cannot be decompressed")
    # libtiff has put the two bytes of 16 bits into this machine's order: back into the file's.
    return np.asarray(image.astype(directory.order + "u2", copy=False).view(np.uint8) if deep else image, np.uint8)


def check_odd_rows(directory: Directory, layout: Layout) -> None:
    """Raise struct.error for damaged strips whose rows have an odd number of bytes, which OpenCV would leave black.

    Two rows are one of 16 bits, for which libtiff stops at damage. The last row of a strip of odd rows goes unseen.
    """
    rows, row_bytes = tiff.piece_shape(directory, layout)
    packed = layout.bits == 8 and layout.compression in (tiff.LZW, tiff.PACKBITS)
    if not packed or row_bytes % 2 == 0 or 322 in directory.entries or not tiff.pieces(directory)[1]:
        return
    width, deep_rows = (row_bytes, rows // 2) if rows > 1 else (row_bytes // 2, 1)
    height = layout.height // rows * deep_rows + layout.height % rows // 2
    if not 0 < width <= MAX_COLUMNS or not height:
        return
    strips, down = -(-height // deep_rows), -(-layout.height // rows)
    kept = (259, 266)
    tags: dict[int, list[int]] = {tag: directory.numbers(tag) for tag in kept if tag in directory.entries}
    tags |= {256: [width], 257: [height], 258: [16], 262: [tiff.BLACK_IS_0], 277: [1], 278: [deep_rows], 284: [1]}
    for first in range(0, down * (layout.samples if layout.planar else 1), down):
        places, sizes = (values[first : first + strips] for values in tiff.pieces(directory))
        file = np.frombuffer(_with_directory(directory, tags | {273: places, 279: sizes}), np.uint8)
        image = cv2.imdecode(file, cv2.IMREAD_UNCHANGED)
        if image is None or image.shape != (height, width):
            raise struct.error("a strip cannot be decompressed")


def _with_directory(directory: Directory, tags: dict[int, list[int]]) -> bytearray:
    """The file with these tags as its first directory, put behind its own bytes."""
    order, big = directory.order, directory.big
    word, kind = ("Q", 16) if big else ("I", 4)
    room = struct.calcsize(order + word)
    file = bytearray(directory.data) + bytes(len(directory.data) % 2)
    end = len(file)
    entries = {
        tag: (kind, len(values), struct.pack(f"{order}{len(values)}{word}", *values)) for tag, values in tags.items()
    }
    if JPEG_TABLES in directory.entries:
        tables, size, place = directory.entries[JPEG_TABLES]
        entries[JPEG_TABLES] = tables, size, directory.data[place : place + size]
    head, values = struct.pack(order + ("Q" if big else "H"), len(entries)), bytearray()
    start = end + len(head) + len(entries) * (4 + 2 * room) + room
    for tag, (kind, count, packed) in sorted(entries.items()):
        if len(packed) > room:
            packed, values = struct.pack(order + word, start + len(values)), values + packed + bytes(len(packed) % 2)
        head += struct.pack(order + "HH" + word, tag, kind, count) + packed.ljust(room, b"\0")
    file += head + bytes(room) + values
    struct.pack_into(order + word, file, 8 if big else 4, end)
    return file


def _unpacked(rows: Samples, bits: int, count: int, order: str) -> NDArray[np.integer]:
    """`count` samples of each row (n, bytes), most significant bit first: uint8, or uint16 for more than 8 bits."""
    if bits == 8:
        return rows
    if bits == 16:
        return rows.view(order + "u2").astype(np.uint16, copy=False)
    samples = np.empty((len(rows), count), np.uint8 if bits < 8 else np.uint16)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(samples.dtype)
    step = max(1, 2**20 // rows.shape[1])  # a byte for each bit: not of a whole large image at once
    for top in range(0, len(rows), step):
        ones = np.unpackbits(rows[top : top + step], axis=1, count=count * bits).reshape(-1, count, bits)
        samples[top : top + step] = ones @ weights
    return samples


def _scaled(band: NDArray[np.integer], bits: int) -> Samples:
    """Samples of so many bits scaled to [0, 255]."""
    return np.asarray(band if bits == 8 else cv2.convertScaleAbs(band, alpha=255 / (2**bits - 1)), np.uint8)


def _rgb(bands: list[Samples], directory: Directory, layout: Layout) -> Samples:
    if layout.photometric == tiff.RGB:
        image = cv2.merge(bands)
    elif layout.photometric == tiff.CMYK:
        white = 255 - bands[3]
        image = cv2.merge([cv2.multiply(255 - ink, white, scale=1 / 255) for ink in bands[:3]])
    elif layout.photometric == tiff.PALETTE:
        image = _colour_map(directory, layout)[bands[0]]
    else:
        grey = 255 - bands[0] if layout.photometric == tiff.WHITE_IS_0 else bands[0]
        image = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    return np.asarray(image, np.uint8)


def _colour_map(directory: Directory, layout: Layout) -> Samples:
    """The palette, (colours, 3): scaled from 16 bits, but for old writers that filled the lower 8 alone."""
    colours = np.array(directory.numbers(320))
    if len(colours) < 3 * 2**layout.bits:
        raise struct.error("the palette is too short")
    colours = colours[: 3 * 2**layout.bits].reshape(3, -1).T
    return np.asarray(np.rint(colours / 257) if colours.max() > 255 else colours, np.uint8)
