"""What is asked of an export, what a format is, and what a builder gives: the values that pass between the modules."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from musiq.artifact import Details
from musiq.file_formats import FILE_FORMATS
from musiq.runtimes.batching import PADDED_PATCHES, PATCHES, Feed
from musiq.version import __version__

if TYPE_CHECKING:
    from musiq.model.network import Musiq

Images = NDArray[np.uint8]
Scores = NDArray[np.float32]

INPUTS = ("image", "pyramid", PATCHES)
"""Of the command; its --padded makes PADDED_PATCHES of patches."""

EVERY_PATCHES = (PATCHES, PADDED_PATCHES)
TARGETS = ("cpu", "gpu")
"""What a graph can be tuned for; it runs on both. A CPU gets the patch trunk in parts, which stay in its caches, and in
ONNX the attention of large images, whose weights are written down there; a GPU, which would wait for each launch, all
at once (`musiq.model.chunking.each_patch`, `graph.attention.WEIGHTS_AT_ONCE`)."""

MOST_PARTS = 16
"""Parts in one graph at most: each adds some forty nodes to the patch trunk, or four to each layer, and an image of 12
megapixels has 11,901 patches."""


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes that an artifact takes: `smallest` to `largest`, 0 for no limit; fastest at `best`."""

    smallest: int = 1
    largest: int = 0
    best: int = 8

    @property
    def is_static(self) -> bool:
        """Whether it is one size, which is then part of the graph's shapes."""
        return self.smallest == self.largest


@dataclass(frozen=True)
class Limits:
    """What an artifact's scores may differ from the original's.

    Attributes:
        difference: The largest difference allowed, in percent of the score range.
        srcc: The least rank correlation (SRCC) allowed, -1 to 1.
    """

    difference: float
    srcc: float


LIMITS = {
    # fp32 differs by the order of its sums only. fp16 carries 11 bits and bf16 8 through some forty layers; int8 is
    # judged by what it does to the ranking.
    "fp32": Limits(0.01, 0.9999),
    "fp16": Limits(0.5, 0.999),
    "bf16": Limits(4.0, 0.99),
    "int8": Limits(5.0, 0.99),
}
"""By precision."""


@dataclass(frozen=True, eq=False)
class CalibrationImages:
    """Real images for int8: N of uint8 (H, W, 3), of the model's size or, where it takes any, of their own, with their
    paths below the folder that they are from."""

    names: tuple[str, ...]
    images: Sequence[Images]


@dataclass(frozen=True)
class Int8Options:
    """What int8 needs beyond a request.

    Attributes:
        calibration: Real images. What is measured on them is kept for other formats with the same ones.
        limits: What the choice of layers keeps to.
        force: Keep an artifact that is slower than fp32 on this machine.
        weight_bits: 7 or 8; None for 8 where this CPU adds int8 products exactly, or the file is for GPUs, else 7.
    """

    calibration: CalibrationImages
    limits: Limits = LIMITS["int8"]
    force: bool = False
    weight_bits: int | None = None


@dataclass(frozen=True)
class EngineOptions:
    """What TensorRT's builders alone read.

    Attributes:
        gpus: Compute capabilities without the dot that TensorRT for RTX builds for; none for its usual ones.
        tf32: Whether fp32 products may be rounded to TF32.
        compatible: Build for newer versions of TensorRT and for Ampere and newer GPUs.
        timing_cache: File for kernel timings between builds; None for the one in the user's cache.
    """

    gpus: tuple[int, ...] = ()
    tf32: bool = False
    compatible: bool = False
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Request:
    """One artifact that is asked for.

    Attributes:
        model: Simplified (`graph.simplify.simplify`), in fp32.
        precision: Of trunk, transformer and head; one of the format's own.
        inputs: "image" for uint8 (N, H, W, 3); "pyramid" for the normalised scales, each float32 (N, 3, h, w); "patches"
            or "padded-patches" for those that the image is cut into (`graph.patches`).
        batch: The batch sizes that the artifact takes.
        opset: Of ONNX.
        engine: For TensorRT.
        int8: For int8.
        tuned_for: One of TARGETS.
        whole_attention: The format's own (`Format.whole_attention`), whatever it is tuned for.
        tokens: Of patches, the fewest and the most tokens of an image, the most 0 for no limit (`Feed.tokens`).
    """

    model: Musiq
    precision: str = "fp32"
    inputs: str = "image"
    batch: BatchRange = field(default_factory=BatchRange)
    opset: int = 18
    engine: EngineOptions = field(default_factory=EngineOptions)
    int8: Int8Options | None = None
    tuned_for: str = "cpu"
    whole_attention: bool = False
    tokens: tuple[int, int] = (1, 0)


def feed(request: Request) -> Feed:
    """What the artifact's runtime has to know, and finds inside it."""
    batch = request.batch
    return Feed(request.model.spec, request.inputs, batch.smallest, batch.largest, request.tokens)


def versions(*packages: str) -> dict[str, str]:
    """The versions that an artifact was made with."""
    return {"musiq": __version__, **{package: importlib.metadata.version(package) for package in packages}}


@dataclass(frozen=True)
class Built:
    """What a builder says of the file that it wrote.

    Attributes:
        layers: Its layer types, with counts.
        versions: Those of the packages that made it.
        details: What the builder knows of it; the exporter adds what is the same for all.
        files: Further files that belong to it, beside it.
        unverified: Why it cannot run on this machine; empty where it can.
        batch: What the file takes, where that is less than was asked for.
    """

    layers: dict[str, int]
    versions: dict[str, str]
    details: Details = field(default_factory=Details)
    files: tuple[Path, ...] = ()
    unverified: str = ""
    batch: BatchRange | None = None


Builder = Callable[[Request, Path], Built]
"""Writes the artifact to a path. Raises MusiqError where it cannot be built, or is another precision inside."""


@dataclass(frozen=True)
class Format:
    """One way to export a model.

    Attributes:
        name: What the command calls it.
        build: Writes the file.
        package: Must be importable.
        extra: Of this project's; installs the package.
        precisions: Those that it can be made in.
        aliases: Other names.
        note: A word in the command's help.
        check_possible: Raises MusiqError for a request that this format, or this machine, cannot build.
        file_format: Of the file in `musiq.file_formats.FILE_FORMATS`, where `name` is none of those.
        repository: A folder for Triton Inference Server with the file inside (`triton.export_repository`).
        gpu_only: Never tuned for a CPU, and symmetric in int8: TensorRT's engines.
        whole_attention: For a runtime that never writes attention's weights down, which is slower with attention in parts.
        any_size: The inputs, of INPUTS, with which it can take images of any size.
        fixed_unless_asked: Made for one size unless another is asked for, whatever it can.
    """

    name: str
    build: Builder
    package: str
    extra: str
    precisions: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    note: str = ""
    check_possible: Callable[[Request], None] | None = None
    file_format: str = ""
    repository: bool = False
    gpu_only: bool = False
    whole_attention: bool = False
    any_size: tuple[str, ...] = ()
    fixed_unless_asked: bool = False

    @property
    def suffix(self) -> str:
        """The ending of the artifact's name."""
        return FILE_FORMATS[self.file_format or self.name].endings[0]
