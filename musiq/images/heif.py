"""Reads HEIC images, as iPhones write them, by pi-heif: libheif without its encoders, whose licence is the GPL.

It comes with the extra `heif`, because OpenCV has no decoder of HEVC and few sets of images hold one.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError


def read_heif(data: bytes) -> tuple[NDArray[np.uint8 | np.uint16], int, bool] | None:
    """The primary image, upright (libheif turns it): grey, RGB or RGBA; its bits a sample; whether its colours are
    multiplied by alpha. None for a file that cannot be decoded.

    Raises ImageError where pi-heif is missing.
    """
    try:
        import pi_heif
    except ImportError as problem:
        raise ImageError(
            "HEIC images need pi-heif: pip install 'musiq[heif]'. Or convert the image to JPEG or PNG."
        ) from problem
    try:
        image = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
        pixels = np.array(image)  # a copy: the image's own memory goes with it
    except (ValueError, EOFError, SyntaxError, RuntimeError, OSError, IndexError):
        return None
    bits = image.mode.partition(";")[2]
    return pixels, int(bits or 8), image.mode.startswith("RGBa")
