"""Opening a video, whatever it is stored in."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

from musiq.errors import ImageError
from musiq.files import why_unreadable
from musiq.images.decode import Background, opened_url
from musiq.images.header import AGAIN
from musiq.video.animated_webp import AnimatedWebp
from musiq.video.container import Container
from musiq.video.find import is_animated_webp
from musiq.video.frame import VideoFrame

VideoSource = str | Path | bytes | BinaryIO


class Video(Protocol):
    """An open video.

    Attributes:
        times: When each frame is shown, in order, in seconds after the first; at least one.
        end: When the last one ends.
    """

    times: Sequence[Fraction]
    end: Fraction

    def frames(self, numbers: Sequence[int]) -> Iterator[VideoFrame]:
        """The frames of these numbers, which go up; those that cannot be decoded are left out."""
        ...

    def damage(self) -> str:
        """What is wrong with the video, as far as is known, "" for nothing: after `frames`, also what did not decode."""
        ...


@contextmanager
def open_video(
    source: VideoSource, *, max_pixels: int, background: Background = "white", threads: int = 1
) -> Iterator[Video]:
    """Open a video, and find out when its frames are shown.

    Args:
        source: A path, a URL (needs the extra `url`), the bytes of a file, or a file object open for reading bytes that can
            be sought in.
        max_pixels: Pixels of a frame at most.
        background: "white" or "black", what is behind transparent pixels.
        threads: That decode.

    Raises:
        ImageError: It cannot be read, is no video, has no frame, or frames of more pixels.
    """
    with _opened(source) as file:
        start = file.read(32)
        file.seek(0)
        if not start:
            raise ImageError(f"The file is empty. {AGAIN}")
        if is_animated_webp(start):
            yield AnimatedWebp(file, max_pixels, background)
            return
        with Container(file, max_pixels, background, threads) as video:
            yield video


@contextmanager
def _opened(source: VideoSource) -> Iterator[BinaryIO]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
    elif isinstance(source, (str, Path)):
        if "://" in str(source):
            with opened_url(str(source)) as file:
                yield file
            return
        if why := why_unreadable(Path(source)):
            raise ImageError(f"Cannot read the file: {why}. Check the path and its permissions.")
        with open(source, "rb") as file:
            yield file
    elif hasattr(source, "read") and hasattr(source, "seek"):
        yield source
    else:
        raise ImageError(f"Cannot read a video from {type(source).__name__}; give a path, bytes or a file.")
