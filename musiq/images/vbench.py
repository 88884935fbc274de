"""VBench's preprocessing to its pixels, without torch: what its imaging quality shows the model of a frame.

VBench shrinks uint8 tensors with `torchvision.transforms.Resize(size, antialias=False)`, the first version of it: bilinear
in float32, rounded to even, in the middle of four pixels however much it shrinks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 512
"""Pixels of the side that decides, at most."""

Pixels = NDArray[np.uint8]


def vbench_size(mode: str, height: int, width: int) -> tuple[int, int]:
    """(height, width) that an image of this height and width is resized to.

    Args:
        mode: "longer", "shorter" or "shorter-centercrop": which side has SIDE at most.
        height: Pixels, as the width.
        width: Pixels.
    """
    side = max(height, width) if mode == "longer" else min(height, width)
    if side <= SIDE:
        return height, width
    scale = SIDE / side
    return max(1, int(scale * height)), max(1, int(scale * width))  # sometimes 511: int(512 / 561 * 561)


def seen_size(mode: str, height: int, width: int) -> tuple[int, int]:
    """(height, width) that the model sees of an image: `vbench_size`, or the square that is cropped from it."""
    cropped = mode == "shorter-centercrop" and min(height, width) > SIDE
    return (SIDE, SIDE) if cropped else vbench_size(mode, height, width)


def vbench_pixels(image: Pixels, mode: str) -> tuple[Pixels, str]:
    """Preprocess an image as VBench does, and say how.

    Args:
        image: uint8 RGB (h, w, 3).
        mode: As of `vbench_size`.

    Returns:
        uint8 RGB of `seen_size`, contiguous, and what was done in a few words, "" where it was nothing.
    """
    rows, columns = image.shape[:2]
    height, width = vbench_size(mode, rows, columns)
    if (height, width) == (rows, columns):
        return image, ""
    image, said = resize_bilinear(image, height, width), f"resized {max(height, width) / max(rows, columns):.3g}x"
    if seen_size(mode, rows, columns) != (height, width):
        image, said = _middle(image), f"{said}; cropped {width}x{height} to {SIDE}x{SIDE}"
    return image, said


def resize_bilinear(image: Pixels, height: int, width: int) -> Pixels:
    """As PyTorch's `interpolate` with align_corners=False and no antialiasing, rounded to even.

    Args:
        image: uint8 (h, w, channels).
        height: Pixels wanted, at least 1.
        width: Pixels wanted, at least 1.

    Returns:
        uint8 (height, width, channels).
    """
    above, below, down = _neighbours(image.shape[0], height)
    left, right, along = _neighbours(image.shape[1], width)
    down, along = down[:, None, None], along[:, None]
    rows = image[above] * (1 - down) + image[below] * down  # weights are float32, and so is what they give
    return np.rint(rows[:, left] * (1 - along) + rows[:, right] * along).astype(np.uint8)


def _neighbours(size: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each output along an axis, the input before it, the one behind it, and the weight of that."""
    half = np.float32(0.5)
    centres = np.float32(size) / np.float32(wanted) * (np.arange(wanted, dtype=np.float32) + half) - half
    centres = np.maximum(centres, 0)
    before = centres.astype(np.int64)
    return before, np.minimum(before + 1, size - 1), centres - before.astype(np.float32)


def _middle(image: Pixels) -> Pixels:
    """torchvision's CenterCrop: where a side is one pixel short, black is added behind."""
    height, width = image.shape[:2]
    missing = [(short // 2, short - short // 2) for short in (max(0, SIDE - height), max(0, SIDE - width))]
    image = np.pad(image, [*missing, (0, 0)])
    top, left = (round((side - SIDE) / 2) for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE])
