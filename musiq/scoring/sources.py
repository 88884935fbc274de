"""The images that a command line means: names as given, the images of folders, and lists on standard input."""

from __future__ import annotations

import codecs
import os
import sys
from collections import Counter
from collections.abc import Iterable

from musiq.errors import ImageError, MusiqError
from musiq.files import utf8_name
from musiq.images.find import find_images
from musiq.images.header import read_header
from musiq.video import VIDEO_SUFFIXES

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def expand(names: Iterable[str], videos: bool = False) -> list[str]:
    """The images and videos that names mean.

    Args:
        names: Of files and URLs, which are taken as given, and of folders; `-` is for those that stdin lists, which see
            in `listed`.
        videos: Whether folders yield their videos too.

    Raises:
        MusiqError: There is none, a folder holds none, or the list cannot be read.
    """
    sources: list[str] = []
    for name in names:
        if name == "-":
            sources += expand_folders(listed(_stdin()), videos)
        else:
            sources += expand_folders([name], videos)
    if not sources:
        raise MusiqError("There is nothing to score: the list on stdin is empty. Give one path a line.")
    return sources


def unlisted(names: Iterable[str]) -> list[str]:
    """The names as given, and for - those that stdin lists, with the images of folders among them."""
    return [source for name in names for source in (expand([name]) if name == "-" else [name])]


def expand_folders(names: Iterable[str], videos: bool = False) -> list[str]:
    """The names, with the images of a folder, and its videos where these are asked for, in place of each that is one."""
    return [source for name in names for source in (_inside(name, videos) if os.path.isdir(name) else [name])]


def _inside(folder: str, videos: bool) -> list[str]:
    try:
        return list(map(str, find_images([folder], VIDEO_SUFFIXES if videos else ())))
    except MusiqError:
        if not videos and _inside(folder, videos=True):  # raises this error too where there are none
            raise MusiqError(f"There is no image in {folder}, but videos: add --frames 8 to score those.") from None
        raise


def _stdin() -> bytes:
    if sys.stdin is None:
        raise MusiqError("Cannot read the list on stdin: it is closed. Give one path a line, or name the images.")
    try:
        return sys.stdin.buffer.read()
    except OSError as problem:
        raise MusiqError(f"Cannot read the list on stdin: {problem.strerror}. Give one path a line.") from problem


def listed(data: bytes) -> list[str]:
    """The names in a list: one a line, or separated by NUL, where those hold line feeds (`find -print0`).

    Args:
        data: The list in UTF-8, or in whatever bytes the file system has, with a byte order mark or without; or in UTF-16
            or UTF-32 with one, and also UTF-16 without one if every name is ASCII.

    Raises:
        MusiqError: It is an image instead, or no text in the encoding that it begins with.
    """
    _check_no_image(data)
    data = _as_utf8(data)
    names = data.split(b"\0") if b"\0" in data else [line.rstrip(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(name) for name in names if name not in (b"", b"-")]


def _as_utf8(data: bytes) -> bytes:
    """A list without a byte order mark, and in UTF-8 where it was in UTF-16 or UTF-32."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None) or _unmarked_utf16(data)
    if encoding is None:
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(encoding).encode()
    except UnicodeError as problem:
        raise MusiqError(
            f"The list on stdin begins like {encoding.upper()} and is not ({problem}). Write it again, in UTF-8."
        ) from problem


def _unmarked_utf16(data: bytes) -> str | None:
    """UTF-16 without a mark, as some programs on Windows write it: every second byte of ASCII is NUL there."""
    if len(data) % 2 or len(data) < 4:
        return None
    for encoding, high, line_feed in (("utf-16-le", data[1::2], b"\n\0"), ("utf-16-be", data[::2], b"\0\n")):
        if not any(high) and line_feed in data:
            return encoding
    return None


def _check_no_image(data: bytes) -> None:
    if b"\0" not in data[:64]:  # a folder's name may begin like an image: BMW/1.jpg
        return
    try:
        header = read_header(data)
    except ImageError:
        return
    raise MusiqError(
        f"There is an image on stdin ({header.format} {header.width}x{header.height}), not a list. Name its file, or list "
        "one path a line."
    )


def without(sources: Iterable[str], done: Counter[str]) -> list[str]:
    """The sources that have no row yet, by their UTF-8 names; one given twice has two."""
    left = done.copy()
    todo = []
    for source in sources:
        name = utf8_name(source)
        if left[name] > 0:
            left[name] -= 1
        else:
            todo.append(source)
    return todo
