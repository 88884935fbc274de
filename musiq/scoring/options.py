"""`ScorerOptions`: the options of a `Scorer` as one value, for those that open it elsewhere or later."""

from __future__ import annotations

from dataclasses import dataclass

from musiq.errors import MusiqError, check_positive
from musiq.images.decode import MAX_PIXELS, Background, check_decoding
from musiq.images.fit import Resize
from musiq.runtimes.base import check_threads
from musiq.scoring.plan import MAX_TOKENS
from musiq.video import FrameChoice

JPEG_DECODERS = ("opencv", "nvimagecodec")


@dataclass(frozen=True)
class ScorerOptions:
    """The options of a `musiq.Scorer`, under the names and with the defaults of its parameters, which see.

    Raises MusiqError for those that make no sense.
    """

    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    threads: int | None = None
    mode: str = "latency"
    resize: str | None = None
    max_pixels: int = MAX_PIXELS
    max_tokens: int = MAX_TOKENS
    background: Background = "white"
    reduced_jpeg: bool = False
    jpeg_decoder: str = "opencv"
    frames: str | int | None = None
    per_frame: bool = False

    def __post_init__(self) -> None:
        check_positive(batch_size=self.batch_size, workers=self.workers)
        check_threads(self.threads, self.mode)
        check_decoding(self.max_pixels, self.background)
        if self.resize is not None:
            Resize.parse(self.resize)
        if self.max_tokens is None:
            raise MusiqError("max_tokens is None; expected a whole number of at least 1.")
        check_positive(max_tokens=self.max_tokens)
        FrameChoice.parse(self.frames)
        if self.jpeg_decoder not in JPEG_DECODERS:
            raise MusiqError(
                f"There is no JPEG decoder {self.jpeg_decoder!r}; there are {' and '.join(JPEG_DECODERS)}."
            )
        if self.reduced_jpeg and self.jpeg_decoder != "opencv":
            raise MusiqError(
                "Only OpenCV decodes JPEGs at a part of their size: leave out reduced_jpeg or jpeg_decoder."
            )


DEFAULTS = ScorerOptions()
