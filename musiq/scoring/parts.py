"""What the sources of a run are made of: images as they are, of a video its frames and then its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from musiq.errors import ImageError, MusiqError
from musiq.images.decode import Background, Source
from musiq.scoring.row import Row
from musiq.video import FrameChoice, VideoFrame, is_video, open_video
from musiq.video.open import VideoSource


@dataclass(frozen=True)
class Clip:
    """A source that is a video, whatever it is called."""

    source: VideoSource
    choice: FrameChoice


@dataclass(frozen=True)
class VideoEnd(Row):
    """What stands behind the rows of a video's frames: in `fitted` which were chosen, in `error` why there is none.

    Attributes:
        damage: What is wrong with the video, "" for nothing.
    """

    damage: str = ""


@dataclass(frozen=True)
class Part:
    """An image, a frame, or the end of a video, under the name of its source."""

    name: str
    content: Source | VideoFrame | VideoEnd


@dataclass(frozen=True)
class VideoOptions:
    """How videos are taken apart.

    Attributes:
        choice: The frames that are scored.
        asked: Whether frames were asked for, so that GIFs and animated WebPs are videos.
        max_pixels: Pixels of a frame at most.
        background: Behind transparent pixels.
        threads: That decode.
        check: Raises ImageError for frames of a (height, width) that are not to be scored.
        busy: Told the seconds of decoding.
    """

    choice: FrameChoice
    asked: bool
    max_pixels: int
    background: Background
    threads: int
    check: Callable[[int, int], object]
    busy: Callable[[float], None]


def each_part(sources: Iterable[Source | Clip], options: VideoOptions) -> Iterator[Part]:
    """The parts of all sources, in order. A video is read when its turn comes, one frame after another."""
    for index, source in enumerate(sources):
        if isinstance(source, Clip):
            yield from _frames(source_name(source.source, index), source, options)
        elif is_video(source, options.asked):
            clip = Clip(cast(VideoSource, source), options.choice)
            yield from _frames(source_name(source, index), clip, options)
        else:
            yield Part(source_name(source, index), source)


def _frames(name: str, clip: Clip, options: VideoOptions) -> Iterator[Part]:
    chosen, damage, error, count = "", "", "", 0
    start = time.perf_counter()
    try:
        with open_video(
            clip.source, max_pixels=options.max_pixels, background=options.background, threads=options.threads
        ) as video:
            numbers = clip.choice.numbers(video.times, video.end)
            chosen = clip.choice.told(len(numbers), len(video.times))
            for frame in video.frames(numbers):
                if not count:
                    options.check(frame.height, frame.width)
                count += 1
                options.busy(time.perf_counter() - start)
                yield Part(name, frame)
                start = time.perf_counter()
            damage = video.damage()
            if not count:
                raise ImageError(f"No frame of the video can be decoded ({damage}). Convert it, or copy it again.")
    except Exception as problem:  # an end to this video alone
        error, damage = ("", with_kind(problem)) if count else (with_kind(problem), "")
    options.busy(time.perf_counter() - start)
    yield Part(name, VideoEnd(name, None, chosen, error, damage=damage))


def each_source(sources: Source | Iterable[Source]) -> Iterable[Source]:
    """The sources; of one that could itself be gone through (letters, bytes, lines, rows of pixels), it alone."""
    if isinstance(sources, np.ndarray):
        is_one = sources.ndim < 3 or (sources.ndim == 3 and sources.shape[2] in (3, 4))
    else:
        is_one = isinstance(sources, (str, Path, bytes, bytearray, memoryview)) or hasattr(sources, "read")
    return [cast(Source, sources)] if is_one else cast(Iterable[Source], sources)


def source_name(source: Source | VideoSource, index: int) -> str:
    """What a Row calls its source: the path as given; #0, #1, ... for bytes, arrays and file objects without a name."""
    if isinstance(source, (str, Path)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"#{index}"


def with_kind(problem: BaseException) -> str:
    """The error on one line; the kind is named for those that are not this package's own."""
    text = " ".join(str(problem).split())
    if isinstance(problem, MusiqError):
        return text
    return f"{type(problem).__name__}: {text}"
