"""What is asked of an export, in one value that every format's builder reads."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiq.runtimes.batching import Feed
from musiq.version import __version__

if TYPE_CHECKING:
    from musiq.model.network import Musiq
import importlib.util
from collections.abc import Callable

INPUTS = ("image", "pyramid")
TARGETS = ("cpu", "gpu")
"""What a graph can be tuned for; it runs on both. A CPU gets the patch trunk in parts, which stay in its caches, and in
ONNX the attention of large images, whose weights are written down there; a GPU, which would wait for each launch, all
at once (`musiq.model.chunking.each_patch`, `onnx_trace.WEIGHTS_AT_ONCE`)."""

MOST_PARTS = 16
"""Parts in one graph at most: each adds some forty nodes to the patch trunk, or four to each layer, and an image of 12
megapixels has 11,901 patches."""


@dataclass(frozen=True)
class Batch:
    """The batch sizes that an artifact takes: `smallest` to `largest`, 0 for no limit; fastest at `best`."""

    smallest: int = 1
    largest: int = 0
    best: int = 8

    @property
    def dynamic(self) -> bool:
        return self.smallest != self.largest


@dataclass(frozen=True)
class Request:
    """`model` is simplified and in fp32; `precision` is one of the format's own."""

    model: Musiq
    precision: str = "fp32"
    inputs: str = "image"
    batch: Batch = field(default_factory=Batch)
    opset: int = 18
    options: dict[str, Any] = field(default_factory=dict)  # what one format alone reads: gpus, tf32, ...
    tuned_for: str = "cpu"  # one of TARGETS
    whole_attention: bool = False  # the format's own (`formats.Format`), whatever it is tuned for


def feed(request: Request) -> Feed:
    """What the artifact's runtime has to know, and finds inside it."""
    return Feed(request.model.spec, request.inputs, request.batch.smallest, request.batch.largest)


def versions(*packages: str) -> dict[str, str]:
    """The versions that an artifact was made with."""
    return {"musiq": __version__, **{package: importlib.metadata.version(package) for package in packages}}


@dataclass(frozen=True)
class Built:
    """What a builder says of the file it wrote; `files` are further ones that belong to it."""

    layers: dict[str, int]
    versions: dict[str, str]
    details: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    unverified: str = ""
    batch: Batch | None = None  # what the file takes, where that is less than was asked for


Builder = Callable[[Request, Path], Built]


@dataclass(frozen=True)
class Format:
    """`suffix` ties it to its runtime (`musiq.runtimes.registry.RUNTIMES`); `package` must be importable, `extra`
    installs it.

    A `repository` is a folder for Triton Inference Server with such a file inside (`triton.export_repository`). What is
    `gpu_only`, TensorRT's engines, is never tuned for a CPU, and symmetric in int8. `whole_attention`
    is for a runtime that never writes attention's weights down: in parts `musiq` at 4000x3000 took OpenVINO 29 instead of
    25 seconds.
    """

    name: str
    suffix: str
    build: Builder
    package: str
    extra: str
    precisions: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    note: str = ""
    possible: Callable[[Request], None] | None = None  # raises MusiqError for what this machine cannot build
    repository: bool = False
    gpu_only: bool = False
    whole_attention: bool = False
