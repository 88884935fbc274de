"""Reads the pixels of image files as they are stored: uint8 RGB or RGBA, not yet turned nor laid over a background.

OpenCV decodes what it represents faithfully, the readers of this package the rest; what neither does is refused by the
header, by name.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError
from musiq.images import bmp, tiff
from musiq.images.fit import Image
from musiq.images.header import AGAIN, Header
from musiq.images.heif import read_heif
from musiq.images.jpegxl import read_jpegxl
from musiq.images.tiff_samples import check_odd_rows, read_samples

# OpenCV reports on stderr what is raised here with more context; the user's own setting of its variable stands.
if "OPENCV_LOG_LEVEL" not in os.environ:
    # OpenCV 5 moved it.
    (cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)

Stored = tuple[Image, bool]
"""uint8 (H, W, 3) RGB or (H, W, 4) RGBA, and whether the colours are multiplied by alpha already."""


def read_stored(data: bytes, header: Header) -> Stored:
    """The pixels of any file but a JPEG. Raises ImageError for one that is cut short, corrupt or of no decoder here."""
    try:
        return READERS.get(header.format, _by_opencv)(data, header)
    except struct.error as problem:
        raise ImageError(undecodable(header)) from problem


def opencv_decoded(data: bytes, header: Header, how: int) -> NDArray[Any]:
    """What OpenCV makes of a file's bytes; with IMREAD_UNCHANGED grey, BGR or BGRA, uint8 or uint16."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except (cv2.error, MemoryError) as problem:
        raise ImageError(undecodable(header)) from problem
    if image is None:
        raise ImageError(undecodable(header))
    return np.asarray(image)


def undecodable(header: Header) -> str:
    """Why a file could not be decoded, in one line."""
    if header.format not in READERS and not cv2.haveImageWriter(f"image.{header.format.lower()}"):
        return f"This OpenCV ({cv2.__version__}) has no {header.format} decoder. Convert the image to JPEG or PNG."
    what = f"{header.format} {header.width}x{header.height}"
    if header.kind:
        kind = f"{header.kind} {header.format}"
        return f"The image ({what}) is cut short or corrupt, or OpenCV knows no {kind}: it cannot be decoded. {AGAIN}"
    return f"The image ({what}) is cut short or corrupt: its pixels cannot be decoded. {AGAIN}"


def eight_bit(image: NDArray[Any], depth: int = 16) -> Image:
    """Samples of `depth` bits in uint16 scaled to [0, 255], uint8 as it is."""
    if image.dtype == np.uint8:
        return image
    if image.dtype != np.uint16:
        raise ImageError(f"The image has {image.dtype} samples; expected 8 or 16 bits. Save it as an ordinary one.")
    return np.asarray(cv2.convertScaleAbs(image, alpha=255 / (2**depth - 1)), np.uint8)


def _by_opencv(data: bytes, header: Header) -> Stored:
    image = opencv_decoded(data, header, cv2.IMREAD_UNCHANGED)
    if header.transparent is not None and _bands(image) == 1:
        return _without_grey(image, header), False
    return _rgb(eight_bit(image, header.depth), bgr=True), False


def _without_grey(image: NDArray[Any], header: Header) -> Image:
    """A grey PNG with the one value that is transparent, which OpenCV leaves opaque (PNG 11.3.2.1)."""
    alpha = np.where(image == header.transparent, 0, 255).astype(np.uint8)
    grey = eight_bit(image)
    return np.asarray(cv2.merge([grey, grey, grey, alpha]), np.uint8)


def _tiff(data: bytes, header: Header) -> Stored:
    directory, layout = tiff.read_layout(data)
    tiff.check_end(directory, layout)
    if not layout.by_opencv:
        return read_samples(directory, layout), layout.alpha == 1
    check_odd_rows(directory, layout)
    image = opencv_decoded(directory.as_first(), header, cv2.IMREAD_UNCHANGED)
    if _bands(image) == 4 and not layout.alpha:
        image = np.ascontiguousarray(image[..., :3])
    # For 8 bits a sample OpenCV has libtiff multiply the colours by alpha, if the tags say that they are not; for 16 bits
    # it reads them as they are.
    by_libtiff = layout.alpha == 2 and image.dtype == np.uint8 and tiff.EXTRA_SAMPLES in directory.entries
    return _rgb(eight_bit(image), bgr=True), layout.alpha == 1 or by_libtiff


def _bmp(data: bytes, header: Header) -> Stored:
    info = bmp.read_info(data)
    return _by_opencv(data, header) if info.by_opencv else (bmp.read_pixels(data, info), False)


def _heic(data: bytes, header: Header) -> Stored:
    found = read_heif(data)
    if found is None:
        raise ImageError(undecodable(header))
    image, bits, multiplied = found
    return _rgb(eight_bit(image, bits)), multiplied


def _jpegxl(data: bytes, header: Header) -> Stored:
    image = read_jpegxl(data)
    if image is None or _bands(image) > 4:
        raise ImageError(undecodable(header))
    image = eight_bit(image, header.depth)
    if _bands(image) == 2:
        return np.ascontiguousarray(image[..., [0, 0, 0, 1]]), False
    return _rgb(image), False


def _bands(image: NDArray[Any]) -> int:
    return 1 if image.ndim == 2 else int(image.shape[2])


def _rgb(image: Image, *, bgr: bool = False) -> Image:
    """Grey, three or four bands as RGB or RGBA."""
    bands = _bands(image)
    if bands == 1:
        code = cv2.COLOR_GRAY2RGB
    elif bgr:
        code = cv2.COLOR_BGR2RGB if bands == 3 else cv2.COLOR_BGRA2RGBA
    else:
        return image
    return np.asarray(cv2.cvtColor(image, code), np.uint8)


READERS: dict[str, Callable[[bytes, Header], Stored]] = {
    "TIFF": _tiff,
    "BMP": _bmp,
    "HEIC": _heic,
    "JPEG XL": _jpegxl,
}
