"""Which files are videos: by their names, and for those that are images as well by what is inside."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv"))
ANIMATED_SUFFIXES = frozenset((".gif", ".webp"))
"""Of images that may move: they are videos where frames were asked for."""


def is_video(source: object, frames_asked: bool = False) -> bool:
    """Whether a source is a video by its name.

    Args:
        source: A path or a URL; of anything else the answer is no.
        frames_asked: Whether frames were asked for, so that GIFs and animated WebPs are videos too.
    """
    if not isinstance(source, (str, Path)):
        return False
    name = os.fspath(source)
    suffix = os.path.splitext(urlsplit(name).path if "://" in name else name)[1].lower()
    if suffix in VIDEO_SUFFIXES:
        return True
    return frames_asked and (suffix == ".gif" or (suffix == ".webp" and is_animated_webp(_start(name))))


def is_animated_webp(data: bytes) -> bool:
    """Whether a file that begins like this is a WebP of several frames: its extended header says so."""
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) > 20 and bool(data[20] & 2)


def _start(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read(32)
    except (OSError, ValueError):  # as an image it is told why
        return b""
