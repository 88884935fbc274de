"""Resizes the middle of elongated images alone.

Made to cover a model's image, one of 1x10000 pixels would grow to 2,560,000 rows, of which 192 are kept. Cropping it first
cannot give the same pixels, because the crop begins between two of the source's: here the rows that are kept are made one
by one, as cv2.resize makes them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

BLOCK = 2**19
"""Samples of the source that are floating point at a time."""

CUBIC = -0.75
"""The free parameter of the cubic kernel, as OpenCV has it."""

Weights = tuple[int, NDArray[np.float32]]
"""Of resized rows: the first row of the source that they need, and (rows, rows of the source) from there on."""


def resize_middle(
    image: NDArray[np.uint8], size: tuple[int, int], kept: tuple[int, int], *, shrinks: bool
) -> NDArray[np.uint8]:
    """The middle of an image resized along with the rest of it, which is never made.

    Args:
        image: uint8 RGB (h, w, 3).
        size: (width, height) that the whole image would be resized to; one of them is that of `kept`.
        kept: (width, height) of the middle.
        shrinks: Whether areas are averaged, else interpolation is cubic.

    Returns:
        uint8 RGB, `kept` large, within 2 of what cv2.resize gives there.
    """
    if size[0] > kept[0]:
        lying = resize_middle(image.swapaxes(0, 1), size[::-1], kept[::-1], shrinks=shrinks)
        return np.ascontiguousarray(lying.swapaxes(0, 1))
    rows, columns = image.shape[:2]
    width, height = kept
    scale, top = rows / size[1], (size[1] - height) // 2
    middle = np.empty((height, width, 3), np.uint8)
    step = max(1, int(BLOCK / (3 * max(columns, width) * max(1, scale))))
    for first in range(0, height, step):
        count = min(step, height - first)
        start, weights = (_averaged if shrinks else _cubic)(top + first, count, scale, rows)
        source = image[start : start + weights.shape[1]].astype(np.float32)
        resized = (weights @ source.reshape(len(source), -1)).reshape(count, columns, 3)
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        both_resized = np.asarray(cv2.resize(resized, (width, count), interpolation=how))
        middle[first : first + count] = np.clip(np.rint(both_resized), 0, 255)
    return middle


def _averaged(first: int, count: int, scale: float, rows: int) -> Weights:
    """Each resized row averages the part of the source that it covers."""
    edges = np.arange(first, first + count + 1) * scale
    start, stop = int(edges[0]), min(rows, int(np.ceil(edges[-1])))
    below = np.arange(start, stop)
    covered = np.minimum(edges[1:, None], below + 1) - np.maximum(edges[:-1, None], below)
    covered = np.maximum(covered, 0)
    return start, (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(first: int, count: int, scale: float, rows: int) -> Weights:
    """Each resized row is interpolated between four, of which those beyond an edge repeat it."""
    place = ((np.arange(first, first + count) + 0.5) * scale - 0.5).astype(np.float32)  # in which OpenCV counts
    taps = np.floor(place).astype(int)[:, None] + np.arange(-1, 3)
    distance = np.abs(place[:, None] - taps)
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    taps = taps.clip(0, rows - 1)
    start = int(taps.min())
    weights = np.zeros((count, int(taps.max()) - start + 1), np.float32)
    np.add.at(weights, (np.arange(count)[:, None], taps - start), np.where(distance <= 1, near, far))
    return start, weights
