"""Reads BMP files: what their headers say, and the pixels of the kinds that OpenCV gets wrong.

OpenCV takes the fourth byte of a pixel for alpha where no mask says so, leaves 5 bits at 248 of 255, and has files with
the oldest header upside down. Those have no compression: their rows are read here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError

CORE, INFO, WITH_ALPHA = 12, 40, 56
"""Bytes of OS/2's first header, of the ordinary one, and of the first that has a mask for alpha."""

NO_COMPRESSION, RLE_8, RLE_4, BITFIELDS, ALPHA_BITFIELDS = 0, 1, 2, 3, 6
DEFAULT_MASKS = (0x7C00, 0x3E0, 0x1F, 0)


@dataclass(frozen=True)
class Info:
    """The headers: `masks` are those of red, green, blue and alpha (0: none); pixels begin at `start`."""

    header: int
    width: int
    height: int
    top_down: bool
    bits: int
    compression: int
    masks: tuple[int, int, int, int]
    start: int

    @property
    def by_opencv(self) -> bool:
        """Whether OpenCV gives the pixels as they are; the table in the tests holds it to that."""
        if self.header == CORE or self.bits == 16:
            return False
        masked = self.compression in (BITFIELDS, ALPHA_BITFIELDS)
        return not masked or (self.compression == BITFIELDS and self.header >= WITH_ALPHA)


def read_info(data: bytes) -> Info:
    """The headers of a BMP. Raises ImageError for a kind that cannot be read, struct.error where they end early."""
    start, header = struct.unpack_from("<II", data, 10)
    compression, masks = NO_COMPRESSION, DEFAULT_MASKS
    if header == CORE:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in (BITFIELDS, ALPHA_BITFIELDS):
        count = 4 if header >= WITH_ALPHA or compression == ALPHA_BITFIELDS else 3
        masks = (*struct.unpack_from(f"<{count}I", data, 14 + INFO), 0)[:4]
    unread = _unread(header, bits, compression, masks)
    if unread:
        raise ImageError(f"This BMP has {unread}, which cannot be read. Save it as an ordinary BMP, PNG or JPEG.")
    if start < 14 + header:
        raise ImageError(f"This BMP is damaged: its pixels begin at byte {start}, inside its headers. Save it anew.")
    return Info(header, width, abs(height), height < 0, bits, compression, masks, start)


def _unread(header: int, bits: int, compression: int, masks: tuple[int, ...]) -> str:
    """The feature that nothing here reads, in a few words; "" where there is none."""
    if header != CORE and header < INFO:
        return f"a header of {header} bytes"
    kinds = {
        NO_COMPRESSION: (1, 4, 8, 16, 24, 32),
        RLE_8: (8,),
        RLE_4: (4,),
        BITFIELDS: (16, 32),
        ALPHA_BITFIELDS: (16, 32),
    }
    if compression not in kinds:
        name = {4: "JPEG or RLE24", 5: "PNG"}.get(compression, f"unknown (number {compression})")
        return f"{name} compression"
    if bits not in kinds[compression]:
        return f"pixels of {bits} bits in compression {compression}"
    if compression in (BITFIELDS, ALPHA_BITFIELDS) and not all(_is_mask(mask, bits) for mask in masks):
        return f"masks of colours that are not 1 to 16 of its {bits} bits, side by side"
    return ""


def _is_mask(mask: int, bits: int) -> bool:
    top = mask >> _shift(mask)
    return mask < 2**bits and top < 2**16 and not top & (top + 1)


def _shift(mask: int) -> int:
    return max(0, (mask & -mask).bit_length() - 1)


def read_pixels(data: bytes, info: Info) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB, or (H, W, 4) RGBA where there is a mask for alpha. Raises struct.error for too few rows."""
    row = -(-info.width * info.bits // 32) * 4
    if info.start + row * info.height > len(data):
        raise struct.error("the pixels end early")
    rows = np.frombuffer(data, np.uint8, row * info.height, info.start).reshape(info.height, row)
    rows = rows if info.top_down else rows[::-1]
    if info.bits == 24:
        return np.asarray(rows[:, : 3 * info.width].reshape(info.height, info.width, 3)[..., ::-1], np.uint8)
    if info.bits < 16:
        return _coloured(data, info, rows)
    pixels = np.ascontiguousarray(rows).view(f"<u{info.bits // 8}")[:, : info.width]
    masks = info.masks if info.masks[3] else info.masks[:3]
    return np.asarray(cv2.merge([_band(pixels, mask) for mask in masks]), np.uint8)


def _band(pixels: NDArray[np.integer], mask: int) -> NDArray[np.uint8]:
    """The samples below one mask, scaled to [0, 255]; 0 without a mask."""
    top = mask >> _shift(mask)
    scaled = np.rint(np.arange(top + 1) * (255 / max(1, top))).astype(np.uint8)
    return np.asarray(scaled[(pixels & mask) >> _shift(mask)], np.uint8)


def _coloured(data: bytes, info: Info, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels of a palette of three bytes a colour, as the oldest header has it."""
    first = 14 + info.header
    count = max(0, min(2**info.bits, (info.start - first) // 3))
    colours = np.zeros((2**info.bits, 3), np.uint8)
    colours[:count] = np.frombuffer(data, np.uint8, 3 * count, first).reshape(count, 3)[:, ::-1]
    each = 8 // info.bits
    shifts = np.arange(each - 1, -1, -1, dtype=np.uint8) * info.bits
    numbers = (rows[..., None] >> shifts & (2**info.bits - 1)).reshape(info.height, -1)[:, : info.width]
    return np.asarray(colours[numbers], np.uint8)
