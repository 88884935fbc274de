"""How tests of decoding compare pixels: alpha laid over a background by its definition, and the largest difference."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def over(image: NDArray[Any], background: int) -> NDArray[np.float64]:
    """(height, width, 3) of an image of three bands, or of four whose last is alpha, all in [0, 255]."""
    colour = np.asarray(image[..., :3], np.float64)
    if image.shape[2] == 3:
        return colour
    alpha = image[..., 3:] / 255
    return np.asarray(colour * alpha + background * (1 - alpha))


def largest_difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Of two images of one size, (height, width, 3)."""
    assert found.shape == wanted.shape
    return float(np.abs(found.astype(np.float64) - wanted).max())
