"""Thumbnails: small pictures by which a person knows the images that were scored."""

from __future__ import annotations

import cv2

from musiq.files import local_name
from musiq.images.decode import MAX_PIXELS, Background, decoded
from musiq.images.fit import Image, Resize, scale_to
from musiq.scoring.row import Row
from musiq.video import FrameChoice, open_video

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


def thumbnail_of(row: Row, max_pixels: int = MAX_PIXELS, background: Background = "white") -> bytes:
    """The thumbnail of a row's image, decoded for it; of a row's frame; of a video's frame in the middle.

    JPEGs are decoded at a part of their size, which takes a fraction of the time. For threads, as `decoded`.

    Args:
        row: As files have it.
        max_pixels: As of `Scorer`.
        background: As of `Scorer`.

    Returns:
        A WebP file; b"" where the image cannot be read.
    """
    source = local_name(row.path)
    try:
        if row.frame is not None or row.frames is not None:
            with open_video(source, max_pixels=max_pixels, background=background) as video:
                number = FrameChoice(1).numbers(video.times, video.end)[0] if row.frame is None else row.frame
                return thumbnail(next(video.frames([number])).pixels())
        with decoded(
            source, max_pixels=max_pixels, background=background, cover=lambda *size: SIDE.size(*size)
        ) as found:
            return thumbnail(found[0])
    except Exception:  # as of a row: its decoder's trouble is its own
        return b""
