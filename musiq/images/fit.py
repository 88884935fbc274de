"""The resize policy: how an image of any size is made to fit the size that a model is for."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from musiq.errors import check_positive
from musiq.images.elongated import resize_middle

Image = NDArray[np.uint8]

MOST_RESIZED = 4
"""How many times the pixels of a model's image a whole resized one may have; of a larger one only the middle is made."""


def fit(image: Image, height: int, width: int, reduction: int = 1) -> tuple[Image, str]:
    """Make an image of any size exactly height x width, and say how.

    It is resized to cover height x width, aspect kept, and the middle is cropped. Shrinking averages areas
    (cv2.INTER_AREA), which does not alias; enlarging is cubic (cv2.INTER_CUBIC). A portrait image is not rotated: it
    loses top and bottom.

    Args:
        image: uint8 RGB (h, w, 3).
        height: Pixels wanted, at least 1.
        width: Pixels wanted, at least 1.
        reduction: The part of its size that the image was decoded at, as `decoded` said; for the words alone.

    Returns:
        uint8 RGB (height, width, 3), contiguous, and what was done in a few words: "resized 0.5x; cropped 60x80 to 60x40",
        "" if the image already fitted.

    Raises:
        MusiqError: `height` or `width` is less than 1.

    References:
        How the authors of KonIQ-10k made their 1024x768 images: Hosu et al., arXiv 1910.06180, section 3.
    """
    check_positive(height=height, width=width)
    rows, columns = image.shape[:2]
    ratio = max(height / rows, width / columns)
    size = max(width, round(columns * ratio)), max(height, round(rows * ratio))  # never a pixel short of covering
    steps = [f"decoded at 1/{reduction}"] if reduction > 1 else []
    if size != (columns, rows):
        if size[0] * size[1] > MOST_RESIZED * width * height:
            image = resize_middle(image, size, (width, height), shrinks=ratio < 1)
        else:
            image = _resized(image, size, ratio)
        steps.append(f"resized {ratio:.3g}x")
    if size != (width, height):
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        image = np.ascontiguousarray(image[top : top + height, left : left + width])
        steps.append(f"cropped {size[0]}x{size[1]} to {width}x{height}")
    return image, "; ".join(steps)


def _resized(image: Image, size: tuple[int, int], ratio: float) -> Image:
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)
