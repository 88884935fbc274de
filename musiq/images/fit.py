"""From a file, bytes or an array to what a model takes: uint8 RGB of its height and width.

Training and scoring go through the same two functions, `decode` and `fit`, so that they cannot drift apart.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def fit(image: Image, height: int, width: int, reduction: int = 1) -> tuple[Image, str]:
    """Make an image (h, w, 3) exactly (height, width, 3), and say how in a few words ("" if it already was).

    It is resized to cover height x width, aspect kept, and the middle is cropped: how the authors of KonIQ-10k made
    their 1024x768 images (arXiv 1910.06180, section 3). Shrinking averages areas (cv2.INTER_AREA), which does not
    alias; enlarging is cubic (cv2.INTER_CUBIC). A portrait image is not rotated: it loses top and bottom. `reduction` is
    what `decoded` said, for the words alone.
    """
    rows, columns = image.shape[:2]
    ratio = max(height / rows, width / columns)
    size = max(width, round(columns * ratio)), max(height, round(rows * ratio))  # never a pixel short of covering
    said = [f"decoded at 1/{reduction}"] if reduction > 1 else []
    if size != (columns, rows):
        image = _resized(image, size, ratio)
        said.append(f"resized {ratio:.3g}x")
    if size != (width, height):
        top, left = (size[1] - height) // 2, (size[0] - width) // 2
        image = np.ascontiguousarray(image[top : top + height, left : left + width])
        said.append(f"cropped {size[0]}x{size[1]} to {width}x{height}")
    return image, "; ".join(said)


def _resized(image: Image, size: tuple[int, int], ratio: float) -> Image:
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)
