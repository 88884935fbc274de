"""Thumbnails: small pictures by which a person knows the images that were scored."""

from __future__ import annotations

import cv2

from musiq.images.decode import MAX_PIXELS, Background, Source, decoded
from musiq.images.fit import Image, Resize, scale_to

SIDE = Resize("longer", 192)
"""Enough to see why an image scored as it did, on a phone and in a column of a screen."""

QUALITY = 50
"""Of WebP: some 4 kB for a photo, so that 10,000 make a page of 50 MB. JPEG would need 6 kB for the same."""


def thumbnail(image: Image) -> bytes:
    """A small copy of an image.

    Args:
        image: uint8 RGB (h, w, 3).

    Returns:
        A WebP file; b"" where OpenCV cannot make one, as a picture less is no reason for a score less.
    """
    small, _ = scale_to(image, *SIDE.size(*image.shape[:2]))
    try:
        made, data = cv2.imencode(".webp", small[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    except cv2.error:
        return b""
    return data.tobytes() if made else b""


def thumbnail_of(source: Source, max_pixels: int = MAX_PIXELS, background: Background = "white") -> bytes:
    """The thumbnail of an image that is not decoded yet, b"" for one that cannot be read. For threads, as `decoded`.

    JPEGs are decoded at a part of their size, which takes a fraction of the time.
    """
    try:
        with decoded(
            source, max_pixels=max_pixels, background=background, cover=lambda *size: SIDE.size(*size)
        ) as found:
            return thumbnail(found[0])
    except Exception:  # as of a row: its decoder's trouble is its own
        return b""
