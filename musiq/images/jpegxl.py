"""Reads JPEG XL images: their size from the first bits, their pixels by imagecodecs.

It comes with the extra `jpegxl`: the one kept package of libjxl for Python whose licence is not the GPL.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError, pip_install

MAX_BOXES = 10_000
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


@dataclass(frozen=True)
class Sizes:
    """What ISO/IEC 18181-1, annex D, has in the first bits; `bits` a sample, 0 for floating point."""

    width: int
    height: int
    bits: int


class _Bits:
    """Reads bits, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise struct.error("the header ends early")
        taken = self._value & ((1 << count) - 1)
        self._value, self._left = self._value >> count, self._left - count
        return taken

    def choose(self, *choices: tuple[int, int]) -> int:
        """One of four numbers, each a start and the bits to add."""
        start, count = choices[self.take(2)]
        return start + self.take(count)


def read_sizes(data: bytes) -> Sizes:
    """Size and depth of a file, in its container or bare. Raises struct.error where it ends early."""
    bits = _Bits(_codestream(data)[2:66])
    width, height = _size(bits)
    if bits.take(1):  # all as is usual
        return Sizes(width, height, 8)
    if bits.take(1):
        bits.take(3)  # orientation, which the decoder undoes
        if bits.take(1):
            _size(bits)
        if bits.take(1):
            _preview(bits)
        if bits.take(1):
            _animation(bits)
    if bits.take(1):
        return Sizes(width, height, 0)
    return Sizes(width, height, bits.choose((8, 0), (10, 0), (12, 0), (1, 6)))


def _codestream(data: bytes) -> bytes:
    """The start of the codestream: the file itself, or what its first box of one holds (ISO/IEC 18181-2)."""
    at = 0
    for _ in range(MAX_BOXES):
        if data[at : at + 2] == b"\xff\x0a":
            return data[at : at + 128]
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        if kind in (b"jxlc", b"jxlp"):
            at += head + (4 if kind == b"jxlp" else 0)
            return data[at : at + 128]
        if length < head:
            break
        at += length
    raise struct.error("there is no codestream")


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if small else bits.choose((1, 9), (1, 13), (1, 18), (1, 30))

    height, ratio = side(), bits.take(3)
    width = height * RATIOS[ratio - 1][0] // RATIOS[ratio - 1][1] if ratio else side()
    return width, height


def _preview(bits: _Bits) -> None:
    eighths = bits.take(1)

    def side() -> int:
        return (
            bits.choose((16, 0), (32, 0), (1, 5), (33, 9))
            if eighths
            else bits.choose((1, 6), (65, 8), (321, 10), (1345, 12))
        )

    side()
    if not bits.take(3):
        side()


def _animation(bits: _Bits) -> None:
    bits.choose((100, 0), (1000, 0), (1, 10), (1, 30))
    bits.choose((1, 0), (1001, 0), (1, 8), (1, 10))
    bits.choose((0, 0), (0, 3), (0, 16), (0, 32))
    bits.take(1)


def read_jpegxl(data: bytes) -> NDArray[np.uint8 | np.uint16] | None:
    """The first frame, upright, (H, W) or (H, W, bands); None for a file that cannot be decoded.

    Raises ImageError where imagecodecs is missing.
    """
    try:
        import imagecodecs
    except ImportError as problem:
        raise ImageError(
            f"JPEG XL images need imagecodecs: {pip_install('jpegxl')}. Or convert the image to JPEG or PNG."
        ) from problem
    try:
        return np.asarray(imagecodecs.jpegxl_decode(data, index=0, numthreads=1))
    except (RuntimeError, ValueError, IndexError, MemoryError):
        return None
