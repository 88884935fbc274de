"""Runtimes: each opens one kind of file and is one callable: uint8 images in, float32 scores out, returned is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from musiq import artifact
from musiq.errors import MusiqError
from musiq.hardware import cuda_index
from musiq.spec import Spec

Images = NDArray[np.uint8]
Scores = NDArray[np.float32]


class Runtime(Protocol):
    """What every runtime offers. Safe to call from several threads unless its module says otherwise."""

    spec: Spec
    provider: str
    """What really runs, as the backend itself names it: "CPUExecutionProvider", "PyTorch cpu", ..."""
    in_flight: int
    """How many calls at once make sense, each from a thread of its own: 1 on a CPU, which one call keeps busy, unless it
    was opened for throughput; 2 on a GPU, where one batch is copied while another computes. Each call holds the working
    memory of its batch."""
    default_batch: int
    """How many images make sense in a call, for those who do not know better: see `feed.Feed.default_batch`."""

    def __call__(self, images: Images) -> Scores:
        """uint8 (N, H, W, 3) RGB to float32 (N,): scores in the units of `spec.target`."""
        ...

    def run(self, images: Images) -> dict[str, Scores]:
        """All that the model computes: "score" (N,), and "shares" (N, K) of the ratings 1..K where it has them."""
        ...

    def close(self) -> None:
        """Give memory and device back; a call afterwards raises MusiqError."""
        ...


MODES = ("latency", "throughput")
"""What CPU threads are for: all of them for one call, or one each for as many calls as there are."""


@dataclass(frozen=True)
class Opening:
    """How to open a file: see `open_runtime`. The record, read and checked already, is what engines live by."""

    device: str
    threads: int | None
    throughput: bool = False
    record: artifact.Record | None = None


Opener = Callable[[Path, Opening], Runtime]


CHECKPOINTS = (".safetensors", ".pth", ".pt", ".npz")


WAYS: dict[str, tuple[str, ...]] = {
    "cuda-graph": (".onnx",),
    "tensorrt": (".onnx",),
    "cuda-compile": (".pt2", *CHECKPOINTS),
}
"""Special ways to use a CUDA device, and which files have them."""


def check_device(device: str, path: Path) -> None:
    """Raise MusiqError unless `device` is one that a file of this kind can run on."""
    kind, colon, number = device.partition(":")
    on_gpu = kind in ("cuda", *WAYS) and (number.isdecimal() or not colon)
    if device not in ("auto", "cpu") and not on_gpu:
        raise MusiqError(
            f"There is no device {device!r}; expected auto, cpu, cuda or cuda:0 (any number), for .onnx files also "
            "cuda-graph:0 or tensorrt:0, and for .pt2 files cuda-compile:0."
        )
    if kind in WAYS and path.suffix not in WAYS[kind]:
        ending = WAYS[kind][0]
        wanted = f"{'an' if ending == '.onnx' else 'a'} {ending} file does"
        raise MusiqError(f"{path.name} does not run on {device}, {wanted}: use cuda:{cuda_index(device)}.")


def check_images(images: Images, spec: Spec) -> None:
    """Raise MusiqError unless `images` is uint8 (N >= 1, H, W, 3) of the size that the model is for."""
    expected = f"uint8 (N, {spec.height}, {spec.width}, 3)"
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (spec.height, spec.width, 3):
        raise MusiqError(
            f"The images are {images.dtype} {images.shape}; this model takes {expected}, RGB. "
            "musiq.images.fit.fit makes them fit."
        )
    if not len(images):
        raise MusiqError(f"The batch is empty; this model takes {expected} with N of at least 1.")
