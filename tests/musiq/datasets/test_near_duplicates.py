"""Near duplicates: found among real photographs in spite of exposure, blur and size, and only there."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from musiq.datasets.near_duplicates import SIDE, find_near_duplicates, similar_pairs

skimage = pytest.importorskip("skimage.data")

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs, each as it is and in six copies."""
    folder = tmp_path_factory.mktemp("copies")
    rng = np.random.default_rng(0)
    for name in PHOTOGRAPHS:
        image = cv2.cvtColor(getattr(skimage, name)(), cv2.COLOR_RGB2BGR)
        noisy = np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8)
        copies = {
            "a.png": image,
            "b.jpg": image,
            "blurred.png": cv2.GaussianBlur(image, (0, 0), 4),
            "darker.png": (image * 0.4).astype(np.uint8),
            "noisy.jpg": noisy,
            "small.png": cv2.resize(image, (160, 120)),
            "large.jpg": cv2.resize(image, (900, 700)),
        }
        for ending, copy in copies.items():
            cv2.imwrite(str(folder / f"{name}-{ending}"), copy)
    return folder


def test_all_copies_of_a_photograph_are_pairs_and_no_two_photographs_are(folder: Path) -> None:
    paths = sorted(folder.glob("*.*"))
    pairs = find_near_duplicates(paths)
    names = [path.name.split("-")[0] for path in paths]
    expected = {(i, j) for i in range(len(paths)) for j in range(i + 1, len(paths)) if names[i] == names[j]}
    assert {tuple(pair) for pair in pairs.tolist()} == expected


def test_a_jpeg_read_at_an_eighth_is_hashed_like_the_whole(folder: Path) -> None:
    thumbnails = []
    for flag in (cv2.IMREAD_GRAYSCALE, cv2.IMREAD_REDUCED_GRAYSCALE_8):
        grey = cv2.imread(str(folder / "coffee-large.jpg"), flag)
        thumbnails.append(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    assert similar_pairs(np.array(thumbnails)).tolist() == [[0, 1]]


def test_pairs_are_those_of_a_plain_comparison_of_all_with_all() -> None:
    rng = np.random.default_rng(1)
    bases = cv2.blur(rng.integers(0, 256, (40, SIDE, SIDE, 1)).astype(np.float32).reshape(40 * SIDE, SIDE), (5, 5))
    bases = bases.reshape(40, SIDE, SIDE)
    copies = np.concatenate([bases, bases + rng.normal(0, 1, bases.shape), bases + rng.normal(0, 8, bases.shape)])
    thumbnails = np.clip(copies, 0, 255).astype(np.uint8)

    def bits(one: np.ndarray) -> np.ndarray:
        low = cv2.dct(one.astype(np.float64))[:8, :8].ravel()
        return low > np.median(low[1:])

    hashes = [bits(one) for one in thumbnails]
    expected = []
    for i in range(len(thumbnails)):
        for j in range(i + 1, len(thumbnails)):
            r = np.corrcoef(thumbnails[i].ravel(), thumbnails[j].ravel())[0, 1]
            if (hashes[i] != hashes[j]).sum() <= 12 and r > 0.95:
                expected.append([i, j])
    assert similar_pairs(thumbnails).tolist() == expected
    assert 40 <= len(expected) < 120


def test_what_cannot_be_read_and_what_is_flat_is_near_nothing(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(tmp_path / name), np.full((64, 64, 3), 90, np.uint8))
    (tmp_path / "3.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "4.png").write_bytes(b"\x89PNG broken")
    paths = [tmp_path / f"{i}.png" for i in range(1, 7)]
    assert find_near_duplicates(paths).shape == (0, 2)
    assert find_near_duplicates([]).shape == (0, 2)


def test_thumbnails_are_read_once_and_again_when_a_file_changed(folder: Path, tmp_path: Path) -> None:
    cache, image, other = tmp_path / "run/thumbnails.npz", tmp_path / "1.png", tmp_path / "2.png"
    image.write_bytes((folder / "coffee-a.png").read_bytes())
    other.write_bytes((folder / "coffee-blurred.png").read_bytes())
    assert len(find_near_duplicates([image, other], [cache])) == 1
    before = image.stat()
    size = len(image.read_bytes())
    image.write_bytes(b"x" * size)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(find_near_duplicates([image, other], [cache])) == 1  # same size and time: taken from the cache
    assert len(find_near_duplicates([image, other], [tmp_path / "new/thumbnails.npz", cache])) == 1
    assert (tmp_path / "new/thumbnails.npz").exists()
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert len(find_near_duplicates([image, other], [cache])) == 0
    cache.write_bytes(b"no cache")
    assert len(find_near_duplicates([other, other], [cache])) == 1
