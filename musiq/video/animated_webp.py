"""Animated WebP, which FFmpeg does not read: its chunks tell the times, OpenCV decodes a few frames at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import accumulate
from typing import BinaryIO

import cv2
import numpy as np

from musiq.errors import ImageError
from musiq.images.decode import Background, check_pixels, flattened
from musiq.images.fit import Image
from musiq.images.header import AGAIN
from musiq.video.frame import VideoFrame

MOST_BYTES = 2**27
"""Of the pixels that are decoded at once."""

UNSAID_MS = 100
"""That a frame lasts which says 0, as in browsers and as FFmpeg has it of GIFs."""


class AnimatedWebp:
    """An animated WebP; see `musiq.video.open.Video`."""

    def __init__(self, file: BinaryIO, max_pixels: int, background: Background) -> None:
        """Read its chunks. Raises ImageError for one without a whole frame, or with frames of more pixels."""
        data = file.read()
        self._background = background
        self._width, self._height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        check_pixels(self._width, self._height, max_pixels)
        lasts, at = [], 12
        while (after := at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")) <= len(data):
            if data[at : at + 4] == b"ANMF":
                lasts.append(Fraction(int.from_bytes(data[at + 20 : at + 23], "little") or UNSAID_MS, 1000))
            at = after + after % 2
        self._cut = at < len(data)
        if self._cut:  # OpenCV decodes none of a file that ends within a chunk
            data = data[:4] + (at - 8).to_bytes(4, "little") + data[8:at]
        self._data = np.frombuffer(data, np.uint8)
        if not lasts:
            raise ImageError(f"The video has no whole frame. {AGAIN}")
        *starts, self.end = accumulate(lasts, initial=Fraction(0))
        self.times: Sequence[Fraction] = starts
        self._missing = 0

    def frames(self, numbers: Sequence[int]) -> Iterator[VideoFrame]:
        """See `musiq.video.open.Video`. OpenCV begins anew each time, at the first frame."""
        at_once = max(1, MOST_BYTES // (4 * self._width * self._height))
        left = list(numbers)
        while left:
            first = left[0]
            some = [number for number in left if number < first + at_once]
            left = left[len(some) :]
            found, animation = cv2.imdecodeanimation(self._data, first, some[-1] - first + 1)
            images = [np.asarray(image, np.uint8) for image in animation.frames] if found else []
            for number in some:
                if number - first < len(images):
                    pixels = partial(self._rgb, images[number - first])
                    yield VideoFrame(number, float(self.times[number]), self._height, self._width, pixels)
                else:
                    self._missing += 1

    def _rgb(self, image: Image) -> Image:
        code = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        return flattened(np.asarray(cv2.cvtColor(image, code), np.uint8), self._background, multiplied=False)

    def damage(self) -> str:
        """See `musiq.video.open.Video`."""
        if self._cut:
            return f"cut short after {float(self.end):.4g} s"
        return f"{self._missing} more could not be decoded" if self._missing else ""
