"""A resize as two matrix products: the one definition of the multi-scale pyramid, for training and every artifact.

Output pixel i of m samples the n input pixels at c = (i + 0.5) n / m; input pixel j sits at j + 0.5. There is no
antialiasing. Each row of a matrix sums to 1, so that normalising pixel values before or after a resize is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musiq.errors import MusiqError
from musiq.spec import Scale, Spec

CUBIC_A = -0.75  # the coefficient of cv2.INTER_CUBIC and of torch's bicubic
GAUSSIAN_SIGMA, GAUSSIAN_RADIUS = 0.5, 1.5  # tf.image.ResizeMethod.GAUSSIAN


def resize_matrix(inputs: int, outputs: int, kernel: str) -> NDArray[np.float64]:
    """The matrix that resizes a column of pixels: `matrix @ column`.

    Args:
        inputs: Pixels of the column.
        outputs: Pixels of the resized column.
        kernel: "cubic": four taps with a = -0.75, edges replicated, as cv2.INTER_CUBIC. "gaussian":
            exp(-x^2 / (2 * 0.5^2)) for |x| < 1.5, pixels outside the image left out, as TensorFlow's GAUSSIAN.

    Returns:
        float64 (outputs, inputs), each row with a sum of 1.

    Raises:
        MusiqError: There is no such kernel.

    References:
        Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 29(6), 1981.
        tf.image.resize with tf.image.ResizeMethod.GAUSSIAN and antialias=False.
    """
    index, weights = resize_taps(inputs, outputs, kernel)
    matrix = np.zeros((outputs, inputs))
    np.add.at(matrix, (np.arange(outputs)[:, None], index), weights)
    return matrix


@lru_cache(maxsize=256)
def resize_taps(inputs: int, outputs: int, kernel: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What is not zero in a resize matrix.

    Args:
        inputs: Pixels of the column.
        outputs: Pixels of the resized column.
        kernel: As for `resize_matrix`.

    Returns:
        Both (outputs, taps) and read-only: which pixels each output reads, and how much of each, with a sum of 1.

    Raises:
        MusiqError: There is no such kernel.
    """
    if kernel == "gaussian":
        index, weights = _gaussian_taps(inputs, outputs)
    elif kernel == "cubic":
        centres = (np.arange(outputs) + 0.5) * inputs / outputs
        index = np.floor(centres - 0.5).astype(np.int64)[:, None] + np.arange(-1, 3)
        weights = _cubic(np.abs(index + 0.5 - centres[:, None]))
    else:
        raise MusiqError(f"There is no resize kernel {kernel!r}; the kernels are cubic, gaussian.")
    index, weights = index.clip(0, inputs - 1), weights / weights.sum(axis=1, keepdims=True)
    for array in (index, weights):
        array.setflags(write=False)  # all who ask get the same
    return index, weights


def _gaussian_taps(inputs: int, outputs: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The kernel jumps from 0.011 to 0 at its radius, and at ratios such as 4/3 many pixels lie on it: what counts is
    decided by TensorFlow's float32 rounding of distances, how much by the distances themselves."""
    inverse = np.float32(1) / (np.float32(outputs) / np.float32(inputs))
    rounded = (np.arange(outputs, dtype=np.float32) + np.float32(0.5)) * inverse
    index = np.floor(rounded).astype(np.int64)[:, None] + np.arange(-1, 2)  # others are further than the radius
    near = np.abs(index.astype(np.float32) + np.float32(0.5) - rounded[:, None]) < GAUSSIAN_RADIUS
    distance = index + 0.5 - ((np.arange(outputs) + 0.5) * inputs / outputs)[:, None]
    weights = np.exp(-(distance**2) / (2 * GAUSSIAN_SIGMA**2))
    return index, np.where(near & (index >= 0) & (index < inputs), weights, 0.0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel at the distances x >= 0."""
    near = ((CUBIC_A + 2) * x - (CUBIC_A + 3)) * x * x + 1
    far = ((CUBIC_A * x - 5 * CUBIC_A) * x + 8 * CUBIC_A) * x - 4 * CUBIC_A
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def scale_matrices(spec: Spec, scale: Scale) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two matrices that make `scale` of an image: `left @ channel @ right` for each channel (height, width).

    Args:
        spec: The model's, for its image size, its kernel and its rounding.
        scale: One of `spec.scales` that has a length.

    Returns:
        left, float64 (rows, spec.height), already cut to `scale.rows`, and right, float64 (spec.width, columns).
    """
    height, width = spec.fixed_size
    rows, columns = spec.size(scale)
    kept, _ = spec.kept_size(scale)
    left = resize_matrix(height, rows, spec.kernel)[:kept]
    return left, np.ascontiguousarray(resize_matrix(width, columns, spec.kernel).T)


@dataclass(frozen=True)
class Bands:
    """A matrix (m, n) whose rows read a few neighbouring columns each, as blocks of rows that read the same few columns.

    A row of a resize reads four of an image's hundreds of rows: as one matrix, nearly all products would be with zeros.

    Attributes:
        blocks: float64 (k, r, w): k blocks of r rows that read w columns each; rows of zeros fill up the last one.
        columns: int64 (k * w,): which columns the blocks read, one block after another.
        rows: int64 (m,): where each row of the matrix is among the k * r.
    """

    blocks: NDArray[np.float64]
    columns: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, matrix: NDArray[np.float64]) -> Bands:
        """The bands of a matrix (m, n): the rows of `blocks @ x[columns]`, taken by `rows`, are those of `matrix @ x`."""
        m, n = matrix.shape
        reads = matrix != 0
        first, last = reads.argmax(axis=1), n - 1 - reads[:, ::-1].argmax(axis=1)  # (m,): the columns that a row reads
        order = np.argsort(first + last, kind="stable")  # (m,): rows of neighbouring columns become neighbours
        r = ceil(m / max(1, round(n / BAND)))
        parts = [order[i : i + r] for i in range(0, m, r)]  # k of (r,), the last one perhaps shorter
        w = max(int(last[part].max() - first[part].min()) + 1 for part in parts)
        starts = [min(int(first[part].min()), n - w) for part in parts]  # k: where each part's w columns begin
        blocks = np.zeros((len(parts), r, w))
        for block, part, start in zip(blocks, parts, starts, strict=True):
            block[: len(part)] = matrix[part, start : start + w]
        columns = np.concatenate([np.arange(start, start + w) for start in starts])
        return cls(blocks, columns, np.argsort(order))  # argsort of a permutation is its inverse


BAND = 48
"""Columns of the matrix for each block, about: fewer read more of them twice, more multiply with more zeros."""


def scales(images: NDArray[np.uint8], spec: Spec) -> list[NDArray[np.float32]]:
    """The pyramid of images in numpy, for artifacts that take the scales as their inputs.

    Args:
        images: uint8 RGB (N, spec.height, spec.width, 3).
        spec: The model's.

    Returns:
        For each of `spec.scales`, in their order, normalised float32 (N, 3, h, w).
    """
    found = [normalised(resized(images, spec, scale), spec) for scale in spec.scales]
    return [np.ascontiguousarray(scale.transpose(0, 3, 1, 2)) for scale in found]


def resized(images: NDArray[np.uint8], spec: Spec, scale: Scale) -> NDArray[np.uint8] | NDArray[np.float32]:
    """One scale of images (..., spec.height, spec.width, 3): (..., h, w, 3) in float32, or the images themselves where the
    scale has no length. Rows first, as a large image has few of them left then."""
    if scale.length is None:
        return images
    (height, width), (rows, columns), (kept, _) = spec.fixed_size, spec.size(scale), spec.kept_size(scale)
    down, down_weights = resize_taps(height, rows, spec.kernel)
    across, across_weights = resize_taps(width, columns, spec.kernel)
    kept_rows = _weighted(images, -3, down[:kept], down_weights[:kept, :, None, None])
    return _weighted(kept_rows, -2, across, across_weights[:, :, None])


def _weighted(
    images: NDArray[Any], axis: int, index: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The sum of the taps along an axis, one tap at a time."""
    found = images.take(index[:, 0], axis) * weights[:, 0].astype(np.float32)
    for tap in range(1, index.shape[1]):
        found += images.take(index[:, tap], axis) * weights[:, tap].astype(np.float32)
    return found


def normalised(images: NDArray[Any], spec: Spec) -> NDArray[np.float32]:
    """Pixel values 0..255 (..., 3) as the model's trunk reads them."""
    mean, std = np.array(spec.mean), np.array(spec.std)
    return images * (1 / (255 * std)).astype(np.float32) - (mean / std).astype(np.float32)
