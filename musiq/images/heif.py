"""Reads HEIC images, as iPhones write them, by pi-heif: libheif without its encoders, whose licence is the GPL.

It comes with the extra `heif`, because OpenCV has no decoder of HEVC and few sets of images hold one.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError, pip_install
from musiq.images import heif_process
from musiq.images.header import AGAIN

SECONDS = 60
"""The longest that one image may take to decode; large photos take about one second."""


def read_heif(data: bytes) -> tuple[NDArray[np.uint8 | np.uint16], int, bool] | None:
    """The primary image, upright (libheif turns it): grey, RGB or RGBA; its bits a sample; whether its colours are
    multiplied by alpha. None for a file that cannot be decoded.

    Raises ImageError where pi-heif is missing, crashes or does not end.
    """
    try:
        import pi_heif  # noqa: F401  whether it is there; what it does, it does in a process of its own
    except ImportError as problem:
        raise ImageError(
            f"HEIC images need pi-heif: {pip_install('heif')}. Or convert the image to JPEG or PNG."
        ) from problem
    output = _decoded(data)
    if output is None:
        return None
    start = output.index(b"\n") + 1
    about = json.loads(output[:start])
    mode = str(about["mode"])
    image = np.frombuffer(output, about["dtype"], offset=start).reshape(about["shape"]).copy()  # writable
    return image, int(mode.partition(";")[2] or 8), mode.startswith("RGBa")


def _decoded(data: bytes) -> bytes | None:
    """What `musiq.images.heif_process` writes for a file, None where it refuses it."""
    command = [sys.executable, heif_process.__file__, *sys.path]
    try:
        child = subprocess.run(
            command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as problem:
        raise ImageError(
            f"The HEIC image is damaged: its decoder did not end in {SECONDS} seconds. {AGAIN}"
        ) from problem
    except OSError as problem:
        raise ImageError(f"The HEIC image's decoder cannot be started: {problem}.") from problem
    if child.returncode not in (0, heif_process.REFUSED):
        raise ImageError(f"The HEIC image is damaged: its decoder crashed. {AGAIN}")
    return child.stdout if child.returncode == 0 else None
