"""`VideoFrame`: one frame of a video, whose pixels are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from musiq.images.fit import Image


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video.

    Attributes:
        number: Its place in the video, from 0 on.
        time_s: When it is first shown, in seconds after the first frame.
        height: Pixels, upright.
        width: Pixels, upright.
        pixels: Makes uint8 RGB (height, width, 3) of it, in any thread.
    """

    number: int
    time_s: float
    height: int
    width: int
    pixels: Callable[[], Image]
