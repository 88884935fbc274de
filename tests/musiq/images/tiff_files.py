"""TIFF files of every kind, written byte by byte: no library writes all the kinds that people have.

`tiff_file` lays out the directory, imagecodecs compresses. tifffile, which shares no code with either, reads the files
back in the tests, so that a mistake here cannot pass for one of the decoder's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tests.score_samples import scene

COMPRESSIONS = {"none": 1, "lzw": 5, "jpeg": 7, "deflate": 8, "packbits": 32773, "zstd": 50000}
PHOTOMETRICS = {"white is 0": 0, "black is 0": 1, "rgb": 2, "palette": 3, "cmyk": 5, "ycbcr": 6}
COLOURS = {"white is 0": 1, "black is 0": 1, "rgb": 3, "palette": 1, "cmyk": 4, "ycbcr": 3}
EXTRAS = {"none": None, "unspecified": 0, "associated": 1, "unassociated": 2}

Value = int | Sequence[int] | bytes


@dataclass(frozen=True)
class Kind:
    """What tells one TIFF from another; `bits` of "32f" are floating point."""

    bits: str = "8"
    photometric: str = "rgb"
    planar: bool = False
    compression: str = "none"
    extra: str = "none"

    @property
    def depth(self) -> int:
        return int(self.bits.removesuffix("f"))

    @property
    def bands(self) -> int:
        return COLOURS[self.photometric] + (self.extra != "none")


def samples(kind: Kind, height: int = 21, width: int = 35) -> NDArray[Any]:
    """Smooth samples (height, width, bands) that use the whole range of their bits, colours below an associated alpha."""
    image = np.dstack([scene(1, height, width), scene(2, height, width)])[..., : kind.bands] / 255
    if kind.extra == "associated":
        image[..., :-1] *= image[..., -1:]
    if kind.bits.endswith("f"):
        return image.astype(np.float32)
    return np.rint(image * (2**kind.depth - 1)).astype(np.uint16 if kind.depth > 8 else np.uint8)


def colour_map(bits: int) -> NDArray[np.uint16]:
    """(3, 2**bits) colours for a palette, no two alike in their order."""
    steps = np.linspace(0, 1, 2**bits)
    return np.rint(np.stack([steps, 1 - steps, (steps * 3.7) % 1]) * 65535).astype(np.uint16)


def of_kind(kind: Kind, image: NDArray[Any], more: dict[int, Value] | None = None, **options: Any) -> bytes:
    """A file of that kind, of samples (height, width, bands), with `more` tags.

    Raises ValueError where no encoder has it.
    """
    tags: dict[int, Value] = {
        258: [kind.depth] * kind.bands,
        259: COMPRESSIONS[kind.compression],
        262: PHOTOMETRICS[kind.photometric],
        284: 2 if kind.planar else 1,
    }
    if kind.bits.endswith("f"):
        tags[339] = [3] * kind.bands
    if kind.extra != "none":
        tags[338] = EXTRAS[kind.extra] or 0
    if kind.photometric == "palette":
        tags[320] = [int(value) for value in colour_map(min(kind.depth, 16)).ravel()]
    if kind.photometric == "ycbcr":
        tags[530] = [1, 1]
    return tiff_file(image, tags | (more or {}), **options)


def tiff_file(
    image: NDArray[Any],
    tags: dict[int, Value],
    *,
    order: str = "<",
    big: bool = False,
    rows: int = 8,
    tile: tuple[int, int] | None = None,
    tags_first: bool = False,
) -> bytes:
    """One image (height, width, bands) in strips of `rows` or in tiles (height, width), with those tags beside its own.

    With tag 317 set to 2 samples are stored as differences to their left neighbours. `tags_first` puts the tags before
    the samples, not behind.
    """
    height, width, bands = image.shape
    planes = np.moveaxis(image, 2, 0)[..., None] if tags.get(284) == 2 else image[None]
    pieces = [_compressed(piece, tags, order) for plane in planes for piece in _pieces(plane, rows, tile)]
    offset, size = (324, 325) if tile else (273, 279)
    tags = {256: width, 257: height, 277: bands, **tags}
    tags |= {322: tile[1], 323: tile[0]} if tile else {278: rows}
    if tags_first:
        return _tags_first(tags, pieces, offset, size)
    return directory_file([(tags, pieces, offset, size)], order, big)


def _tags_first(tags: dict[int, Value], pieces: Sequence[bytes], offset: int, size: int) -> bytes:
    """The same file of one directory, little-endian, in the other order."""
    first = 1024 + 8 * len(pieces)
    places = [first + sum(map(len, pieces[:number])) for number in range(len(pieces))]
    body, _ = _directory({**tags, offset: places, size: [len(piece) for piece in pieces]}, 8, "<", big=False)
    return (struct.pack("<2sHI", b"II", 42, 8) + body).ljust(first, b"\0") + b"".join(pieces)


def directory_file(
    directories: Sequence[tuple[dict[int, Value], Sequence[bytes], int, int]],
    order: str = "<",
    big: bool = False,
    below: Sequence[int] = (),
) -> bytes:
    """Directories, one after the other, each of tags and of pieces whose places and sizes the two tags named hold.

    Those numbered in `below` are no pages but SubIFDs of the first.
    """
    data = bytearray(
        (b"II" if order == "<" else b"MM")
        + struct.pack(order + ("HHHQ" if big else "HI"), *([43, 8, 0, 0] if big else [42, 0]))
    )
    link, starts = (8 if big else 4), {}
    for number in [*below, *(index for index in range(len(directories)) if index not in below)]:
        tags, pieces, offset, size = directories[number]
        places = []
        for piece in pieces:
            places.append(len(data))
            data += piece + b"\0" * (len(piece) % 2)
        tags = {**tags, offset: places, size: [len(piece) for piece in pieces]}
        if below and not any(index not in below for index in starts) and number not in below:
            tags[330] = [starts[index] for index in below]
        starts[number] = len(data)
        body, next_link = _directory(tags, len(data), order, big)
        if number not in below:
            struct.pack_into(order + ("Q" if big else "I"), data, link, len(data))
            link = len(data) + next_link
        data += body
    return bytes(data)


def _directory(tags: dict[int, Value], at: int, order: str, big: bool) -> tuple[bytes, int]:
    """A directory to be put at `at`, with the values that do not fit into it behind; where in it the next one is named."""
    room, word = (8, "Q") if big else (4, "I")
    entries, values = b"", b""
    start = at + (8 if big else 2) + len(tags) * (20 if big else 12) + room
    for tag, value in sorted(tags.items()):
        numbers = [value] if isinstance(value, int) else list(value)
        kind, letter = (7, "B") if isinstance(value, bytes) else (4, "I") if max(numbers) > 65535 else (3, "H")
        packed = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(packed) > room:
            packed, values = struct.pack(order + word, start + len(values)), values + packed + b"\0" * (len(packed) % 2)
        entries += struct.pack(order + "HH" + word, tag, kind, len(numbers)) + packed.ljust(room, b"\0")
    head = struct.pack(order + ("Q" if big else "H"), len(tags)) + entries
    return head + b"\0" * room + values, len(head)


def _pieces(plane: NDArray[Any], rows: int, tile: tuple[int, int] | None) -> list[NDArray[Any]]:
    height, width = plane.shape[:2]
    if tile is None:
        return [plane[top : top + rows] for top in range(0, height, rows)]
    padded = np.pad(plane, [(0, -height % tile[0]), (0, -width % tile[1]), (0, 0)], mode="edge")
    return [
        padded[top : top + tile[0], left : left + tile[1]]
        for top in range(0, height, tile[0])
        for left in range(0, width, tile[1])
    ]


def _compressed(piece: NDArray[Any], tags: dict[int, Value], order: str) -> bytes:
    bits, compression = tags[258], tags[259]
    depth = bits if isinstance(bits, int) else int(bits[0])
    if compression == 7:
        return _jpeg(piece, depth, int(tags[262]))  # type: ignore[arg-type]
    if tags.get(317) == 2:
        piece = np.concatenate([piece[:, :1], np.diff(piece, axis=1)], axis=1)
    data = _packed(piece, depth, order)
    if compression == 5:
        return bytes(imagecodecs.lzw_encode(data))
    encode = {8: imagecodecs.zlib_encode, 32773: imagecodecs.packbits_encode, 50000: imagecodecs.zstd_encode}
    return bytes(encode[compression](data)) if compression in encode else data  # type: ignore[index]


def _packed(piece: NDArray[Any], depth: int, order: str) -> bytes:
    if depth >= 8 and depth % 8 == 0:
        return piece.astype(piece.dtype.newbyteorder(order)).tobytes()
    places = np.arange(depth - 1, -1, -1)
    bits = (piece[..., None] >> places & 1).astype(np.uint8).reshape(len(piece), -1)
    return np.packbits(bits, axis=1).tobytes()


def _jpeg(piece: NDArray[Any], depth: int, photometric: int) -> bytes:
    bands = piece.shape[2]
    if depth != 8 or (bands, photometric) not in [
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 5),
        (1, 6),
        (3, 2),
        (3, 6),
        (4, 5),
    ]:
        raise ValueError(f"no encoder makes JPEGs of {bands} bands of {depth} bits in photometric {photometric}")
    space = {1: "GRAYSCALE", 3: "RGB" if photometric == 2 else "YCBCR", 4: "CMYK"}[bands]
    plain = piece[..., 0] if bands == 1 else piece
    return bytes(
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(plain), level=95, colorspace=space, outcolorspace=space, subsampling="444"
        )
    )
