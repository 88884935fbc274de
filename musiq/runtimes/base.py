"""What every runtime offers, and the checks that all of them share: of devices, and of the images they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from musiq.artifact import Record
from musiq.errors import MusiqError, check_positive
from musiq.file_formats import ENDINGS, FILE_FORMATS, SPECIAL_DEVICES, ending_of
from musiq.hardware import cuda_index
from musiq.spec import Spec

Images = NDArray[np.uint8]
Scores = NDArray[np.float32]


class Runtime(Protocol):
    """One callable for every kind of file: uint8 images in, float32 scores out, and what has returned is finished.

    Safe to call from several threads unless its module says otherwise.

    Attributes:
        spec: What the model is.
        provider: What really runs, as the backend itself names it: "CPUExecutionProvider", "PyTorch cpu", ...
        in_flight: How many calls at once make sense, each from a thread of its own: 1 on a CPU, which one call keeps busy,
            unless it was opened for throughput; 2 on a GPU, where one batch is copied while another computes. Each call
            holds the working memory of its batch.
        default_batch: How many images make sense in a call, for those who do not know better.
        call_shares: What the images of one call must have in common: "size", or "tokens" (their number, `Spec.tokens`),
            or "nothing".
    """

    spec: Spec
    provider: str
    in_flight: int
    default_batch: int
    call_shares: str

    def __call__(self, images: Images | Sequence[Images]) -> Scores:
        """The scores alone.

        Args:
            images: uint8 RGB (N, H, W, 3), N at least 1: H and W are `spec.height` and `spec.width`, or any where those
                are None. Or a list of N images (H, W, 3), which need share no more than `call_shares` says.

        Returns:
            float32 (N,), in the units of `spec.target`.

        Raises:
            MusiqError: The images are of another shape or type, the runtime was closed, or the device failed.
        """
        ...

    def run(self, images: Images | Sequence[Images]) -> dict[str, Scores]:
        """All that the model computes.

        Args:
            images: As of a call.

        Returns:
            "score", float32 (N,), and where the model has K > 1 outputs "shares", float32 (N, K), of the ratings 1..K.

        Raises:
            MusiqError: As of a call.
        """
        ...

    def close(self) -> None:
        """Give memory and device back, after the calls that run; a call afterwards raises MusiqError."""
        ...


MODES = ("latency", "throughput")
"""What CPU threads are for: all of them for one call, or one each for as many calls as there are."""


@dataclass(frozen=True)
class RuntimeOptions:
    """How to open a file.

    Attributes:
        device: "auto", "cpu", "cuda:0" (any number), or one of SPECIAL_DEVICES with a number.
        threads: On a CPU; None for as many as this process may use.
        throughput: Whether each of the threads runs a call of its own.
        record: The artifact's, read and checked already; engines know nothing of their model but this.
    """

    device: str = "auto"
    threads: int | None = None
    throughput: bool = False
    record: Record | None = None


Opener = Callable[[Path, RuntimeOptions], Runtime]


def check_threads(threads: int | None, mode: str) -> None:
    """Raise MusiqError for a number of threads or a mode that there is not."""
    check_positive(threads=threads)
    if mode not in MODES:
        raise MusiqError(f"There is no mode {mode!r}; there are {' and '.join(MODES)}.")


def check_device(device: str, path: Path) -> None:
    """Raise MusiqError unless `device` is one that a file of this kind can run on."""
    kind, colon, number = str(device).partition(":")
    on_gpu = kind in ("cuda", *SPECIAL_DEVICES) and (number.isdecimal() or not colon)
    if device not in ("auto", "cpu") and not on_gpu:
        raise MusiqError(
            f"There is no device {device!r}; expected auto, cpu, cuda or cuda:0 (any number), for .onnx files also "
            "cuda-graph:0 or tensorrt:0, and for .pt2 files cuda-compile:0."
        )
    if kind not in SPECIAL_DEVICES:
        return
    formats, ending = SPECIAL_DEVICES[kind].formats, ending_of(path)
    if ending is None or ENDINGS[ending].name not in formats:
        other = FILE_FORMATS[formats[0]].endings[0]
        wanted = f"{'an' if other == '.onnx' else 'a'} {other} file does"
        raise MusiqError(f"{path.name} does not run on {device}, {wanted}: use cuda:{cuda_index(device)}.")


def check_images(images: Images, spec: Spec) -> None:
    """Raise MusiqError unless `images` is uint8 (N >= 1, H, W, 3) of the size that the model is for."""
    sides = ("H", "W") if spec.any_size else (spec.height, spec.width)
    expected = f"uint8 (N, {sides[0]}, {sides[1]}, 3)"
    fits = images.ndim == 4 and images.shape[3] == 3 and (spec.any_size or images.shape[1:3] == spec.fixed_size)
    if images.dtype != np.uint8 or not fits or not all(images.shape[1:]):
        raise MusiqError(
            f"The images are {images.dtype} {images.shape}; this model takes {expected}, RGB. "
            "musiq.images.fit makes them fit."
        )
    if not len(images):
        raise MusiqError(f"The batch is empty; this model takes {expected} with N of at least 1.")
