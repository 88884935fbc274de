"""Finds the image files of folders, and spreads a choice of few over many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from musiq.errors import MusiqError

T = TypeVar("T")

SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif",
    ".avif", ".heic", ".heif", ".jxl",
))  # fmt: skip


def find_images(paths: str | Path | Iterable[str | Path], also: Iterable[str] = ()) -> list[Path]:
    """The image files behind paths of files and folders.

    Args:
        paths: One path or several: of files, which are taken as given, and of folders, which are searched for names that
            end in SUFFIXES, at any depth, without hidden ones.
        also: Other endings that count: (".mp4",).

    Returns:
        Each file, and for each folder its images, sorted. A path that does not exist, and a folder inside that cannot be
        listed, stay in the list: whoever reads them reports them. Folders reached twice through symbolic links are read
        once.

    Raises:
        MusiqError: A folder holds no image.
    """
    images: list[Path] = []
    suffixes = SUFFIXES.union(also)
    for path in map(Path, [paths] if isinstance(paths, (str, Path)) else paths):
        if not os.path.isdir(path):  # unlike Path.is_dir, never raises
            images.append(path)
            continue
        found = list(_walk(path, suffixes))
        if not found:
            raise MusiqError(f"There is no image in {path}: expected files named {' '.join(sorted(suffixes))}.")
        images += found
    return images


def _walk(top: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    stack, seen = [top], set()
    while stack:
        path = stack.pop()
        if not os.path.isdir(path):
            yield path
            continue
        try:
            status = path.stat()
            names = sorted(os.listdir(path), reverse=True)
        except OSError:
            yield path
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        stack += [path / name for name in names if not name.startswith(".") and _wanted(path, name, suffixes)]


def _wanted(folder: Path, name: str, suffixes: frozenset[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes or os.path.isdir(folder / name)


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of `items` (0: all), evenly spread over them: a folder's first images are often of one scene."""
    if not 0 < most < len(items):
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]
