"""Clips whose frames tell their numbers by their colour, written by PyAV into every container."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from musiq.images.fit import Image

CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}
QUICK = {
    "libx264": {"preset": "ultrafast", "bf": "2"},  # frames that are stored in another order than they are shown in
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
STEP = 8
"""Grey levels from one frame to the next: far more than a codec changes."""


def grey(number: int, height: int = 48, width: int = 64) -> Image:
    """The frame of this number: grey, its upper left quarter white, so that turning it shows."""
    image = np.full((height, width, 3), 16 + STEP * number, np.uint8)
    image[: height // 2, : width // 2] = 255
    return image


def number_of(image: Image) -> int:
    """The number that a frame tells."""
    return round((float(np.median(image)) - 16) / STEP)


def save_clip(
    path: Path,
    count: int = 25,
    times_ms: Sequence[int] | None = None,
    *,
    codec: str = "",
    size: tuple[int, int] = (48, 64),
    degrees: int = 0,
    pix_fmt: str = "yuv420p",
    images: Sequence[Image] | None = None,
    **container_options: str,
) -> Path:
    """A clip of 25 frames a second, or with frames shown from these times on; a key frame in ten."""
    images = images or [grey(number, *size) for number in range(len(times_ms or range(count)))]
    unit = Fraction(1, 1000 if times_ms else 25)
    with av.open(str(path), "w", options=container_options) as container:
        codec = codec or CODECS[path.suffix]
        stream: Any = container.add_stream(codec, rate=25, options=QUICK.get(codec, {}))
        stream.codec_context.thread_count = 1
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = 10
        if times_ms:
            stream.codec_context.time_base = unit
        if degrees:
            stream.set_display_rotation(degrees)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = times_ms[number] if times_ms else number, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def noise(count: int, size: tuple[int, int] = (64, 80)) -> list[Image]:
    """Frames that do not compress, so that a file cut in its middle is cut in the middle of the clip."""
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


def cut(path: Path, part: float = 0.6) -> Path:
    """The file without its end."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def save_sound(path: Path) -> Path:
    """A second of silence."""
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        silence: NDArray[np.float32] = np.zeros((2, 1024), np.float32)
        for number in range(43):
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 44100, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
