"""`Row`: what came of scoring one image, one video, or one frame of a video."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """What came of scoring one image, one video, or one frame of a video.

    Attributes:
        path: The image's path or URL as it was given; #0, #1, ... (its place among the sources) for bytes, arrays and
            file objects without a name.
        score: The model's score in the units of its `spec.target`; None where there is none.
        fitted: How the image was made to fit the model's size: "resized 0.5x; cropped 512x384 to 512x383"; sizes are
            width x height in pixels. "" where it already had the size, and where it could not be read.
        error: Why there is no score, in one line; "" where there is one.
        shares: Shares of the ratings 1 to K, each in [0, 1], for models that predict a distribution; None for others.
        model: The model that scored it, as it was given to the Scorer (#0, #1, ... for a Runtime); "" where the image
            never got to one. Files that musiq-score writes name it by its file's name and SHA-256, and where there is one
            model also in the rows of images that never got to it.
        size: What the model saw, width x height in pixels: "512x288"; "" where the image never got to it.
        frames: Of a video, how many frames were scored; `score` is their mean, and `shares` the means of theirs.
        min: Of a video, the lowest score of its frames.
        median: Of a video, the median of them.
        max: Of a video, the highest.
        frame: Of a frame that has a row of its own, its place in the video, from 0 on.
        time_s: Of such a frame, when it is first shown, in seconds after the video's first.
        thumbnail: A small WebP of the image, where `score_many` was asked for them; else b"". Files have none.
    """

    path: str
    score: float | None
    fitted: str = ""
    error: str = ""
    shares: tuple[float, ...] | None = None
    model: str = ""
    size: str = ""
    thumbnail: bytes = field(default=b"", repr=False, compare=False)
    frames: int | None = None
    min: float | None = None
    median: float | None = None
    max: float | None = None
    frame: int | None = None
    time_s: float | None = None


VIDEO_COLUMNS = ("frames", "min", "median", "max")
"""What the rows of videos have besides."""

FRAME_COLUMNS = ("frame", "time_s")
"""What the rows of frames have besides."""
