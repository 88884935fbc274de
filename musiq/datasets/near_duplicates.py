"""Finds near duplicates, images that show the same shot, by a perceptual hash, and confirms them on thumbnails.

An image is shrunk to a grey thumbnail. Its hash is which of the 64 lowest frequencies (DCT) lie above their median, as in
pHash (Zauner 2010); pairs whose hashes differ in few bits are near duplicates where their thumbnails correlate. Another
exposure, sharpness, noise or size of the same frame is found; mirrored, turned and cropped copies are not.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError
from musiq.files import atomic_write
from musiq.hardware import available_cpus
from musiq.images.decode import decode
from musiq.images.header import read_header

SIDE = 32
"""Pixels of a thumbnail's side."""

DISTANCE, LIKENESS = 12, 0.95
"""Of near duplicates at most so many of 64 bits differ, and the thumbnails correlate by more than that. Chosen on images
of BIQ2021, so that all pairs found between its official train and test set show one scene."""

BLOCK, CANDIDATES = 2048, 16384

Thumbnails = NDArray[np.uint8]
"""(n, SIDE, SIDE); all zero where an image cannot be read."""

Pairs = NDArray[np.int64]
"""(P, 2): indices i < j of two images that are near duplicates."""


def find_near_duplicates(
    paths: Sequence[Path], caches: Sequence[Path] = (), after_image: Callable[[], None] = lambda: None
) -> Pairs:
    """Find the pairs of near duplicates among image files.

    Args:
        paths: The images. Those that cannot be read have no near duplicates, nor have flat ones.
        caches: Files (.npz) of thumbnails, which are taken from there where an image's size and time are the same. The
            first is written; none need exist.
        after_image: Called once for each image, from several threads.

    Returns:
        int64 (P, 2): the indices i < j of each pair.

    References:
        The hash is that of pHash: C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010.
    """
    return similar_pairs(_thumbnails(paths, caches, after_image))


def similar_pairs(thumbnails: Thumbnails) -> Pairs:
    """The pairs among thumbnails: all hashes are compared with all, in blocks of one matrix product."""
    signs = _signs(thumbnails)
    found = []
    for start in range(0, len(signs), BLOCK):
        agreeing = signs[start : start + BLOCK] @ signs[start:].T  # 64 - 2 * bits that differ
        rows, columns = np.nonzero(agreeing >= 64 - 2 * DISTANCE)
        later = columns > rows
        pairs = np.stack([rows[later], columns[later]], axis=1) + start
        for first in range(0, len(pairs), CANDIDATES):
            found.append(_correlated(thumbnails, pairs[first : first + CANDIDATES]))
    return np.concatenate([np.zeros((0, 2), np.int64), *found])


def thumbnail(path: Path) -> Thumbnails:
    """One image as uint8 (SIDE, SIDE), grey, its aspect squeezed; all zero where it cannot be read."""
    try:
        data = path.read_bytes()
        header = read_header(data)
        if header.format == "JPEG" and min(header.width, header.height) >= 8 * SIDE:
            # A JPEG holds its eighth: several times faster than all of it.
            grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        else:
            grey = cv2.cvtColor(decode(data), cv2.COLOR_RGB2GRAY)
    except (OSError, ImageError, cv2.error):
        grey = None
    if grey is None:
        return np.zeros((SIDE, SIDE), np.uint8)
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _signs(thumbnails: Thumbnails) -> NDArray[np.float32]:
    """Hashes as +1 and -1, (n, 64): whether each low frequency lies above the median of all but the mean."""
    low = np.array([cv2.dct(one.astype(np.float32))[:8, :8].ravel() for one in thumbnails]).reshape(-1, 64)
    median = np.median(low[:, 1:], axis=1, keepdims=True) if len(low) else low[:, :1]
    return np.where(low > median, 1, -1).astype(np.float32)


def _correlated(thumbnails: Thumbnails, pairs: Pairs) -> Pairs:
    """Those of the pairs whose thumbnails correlate; a flat one correlates with none."""
    first, second = (thumbnails[pairs[:, side]].reshape(len(pairs), -1).astype(np.float32) for side in (0, 1))
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return pairs[(first * second).sum(axis=1) > LIKENESS * np.maximum(norms, 1e-6)]


def _thumbnails(paths: Sequence[Path], caches: Sequence[Path], after_image: Callable[[], None]) -> Thumbnails:
    keys = [_key(path) for path in paths]
    known = {key: value for cache in caches[::-1] for key, value in _read_cache(cache).items()}

    def one(index: int) -> Thumbnails:
        found = known.get(keys[index])
        after_image()
        return thumbnail(paths[index]) if found is None else found

    with ThreadPoolExecutor(available_cpus()) as pool:
        thumbnails = np.array(list(pool.map(one, range(len(paths)))), np.uint8).reshape(-1, SIDE, SIDE)
    if caches and not (caches[0].exists() and known.keys() >= set(keys)):
        with atomic_write(caches[0]) as part, part.open("wb") as file:
            np.savez(file, keys=np.array(keys), thumbnails=thumbnails)
    return thumbnails


def _key(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path} missing"
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def _read_cache(cache: Path) -> dict[str, Thumbnails]:
    """What the cache holds; nothing where it is not there or not one."""
    try:
        with np.load(cache, allow_pickle=False) as kept:
            return dict(zip(kept["keys"].tolist(), kept["thumbnails"], strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
