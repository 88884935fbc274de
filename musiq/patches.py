"""An image cut into the patches that the patch trunk sees, with what the transformer is told of each: in numpy, for
artifacts that take patches as their inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from musiq.pyramid import normalised, resized
from musiq.spec import PATCH, Spec


def cut(image: NDArray[np.uint8], spec: Spec, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The patches of an image's pyramid, one scale after another, row by row.

    Each scale is padded with zeros to whole patches, as TensorFlow's SAME: the smaller half before.

    Args:
        image: uint8 RGB (spec.height, spec.width, 3).
        spec: The model's, at the size of the image (`Spec.at`).
        out: Where to write them, float32 (spec.tokens - 1, 3, 32, 32); None for a new array.

    Returns:
        Normalised float32 (spec.tokens - 1, 3, 32, 32): `out`, where it was given.
    """
    if out is None:
        out = np.empty((spec.tokens - 1, 3, PATCH, PATCH), np.float32)
    start = 0
    for scale in spec.scales:
        pixels, (rows, columns) = resized(image, spec, scale), spec.grid(scale)
        height, width = pixels.shape[:2]
        above, left = (rows * PATCH - height) // 2, (columns * PATCH - width) // 2
        for row in range(rows):  # one row of patches at a time stays in the caches
            top = row * PATCH - above
            inside = normalised(pixels[max(0, top) : top + PATCH], spec)
            strip = np.zeros((PATCH, columns * PATCH, 3), np.float32)
            strip[max(0, -top) :][: len(inside), left : left + width] = inside
            patches = strip.reshape(PATCH, columns, PATCH, 3).transpose(1, 3, 0, 2)
            out[start : start + columns] = patches
            start += columns
    return out


def position_rows(spec: Spec) -> NDArray[np.int64]:
    """For each token of a fixed size but the class token, its row in the position embedding, (spec.tokens - 1,): its place
    in a coarse common grid."""
    grids = [(_cells(rows, spec), _cells(columns, spec)) for rows, columns in map(spec.grid, spec.scales)]
    return np.concatenate([(down[:, None] * spec.position_grid + across).ravel() for down, across in grids])


def _cells(places: int, spec: Spec) -> NDArray[np.int64]:
    """For each of so many rows or columns of tokens, its row or column in the common grid."""
    grid, place = spec.position_grid, np.arange(places)
    if spec.position_rule == "float32":
        return np.floor(place.astype(np.float32) * (np.float32(grid) / np.float32(places))).astype(np.int64)
    if spec.position_rule == "float64":
        return np.floor(place / places * grid).astype(np.int64)
    return place * grid // places


def scale_rows(spec: Spec) -> NDArray[np.int64]:
    """For each token of a fixed size but the class token, its row in the scale embedding, (spec.tokens - 1,)."""
    counts = [rows * columns for rows, columns in map(spec.grid, spec.scales)]
    return np.repeat([scale.embedding for scale in spec.scales], counts)
