"""`ScorerOptions`: the options of a `Scorer` as one value, for those that open it elsewhere or later."""

from __future__ import annotations

from dataclasses import dataclass

from musiq.images.decode import MAX_PIXELS, Background


@dataclass(frozen=True)
class ScorerOptions:
    """The options of a `musiq.Scorer`, under the names and with the defaults of its parameters, which see."""

    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    threads: int | None = None
    mode: str = "latency"
    max_pixels: int = MAX_PIXELS
    background: Background = "white"
    reduced_jpeg: bool = False
    jpeg_decoder: str = "opencv"


DEFAULTS = ScorerOptions()
