"""MUSIQ, the multi-scale image quality transformer, for production.

    import musiq

    with musiq.load() as scorer:  # the model in the box; or musiq.load("model.onnx")
        scorer.score("photo.jpg")

Also `musiq.images`, `musiq.datasets`, `musiq.runtimes`, `musiq.distributed` and `musiq.metrics`. Importing this package
takes no time and none of the heavy packages: what scores, and those, are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from musiq.errors import ImageError, MusiqError
from musiq.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from musiq import datasets as datasets
    from musiq import distributed as distributed
    from musiq import images as images
    from musiq import metrics as metrics
    from musiq import runtimes as runtimes
    from musiq.images.decode import Background
    from musiq.scoring import Row, Scorer
    from musiq.scoring.open_models import Model
    from musiq.torch_metric import Metric
else:
    _MODULES = ("datasets", "distributed", "images", "metrics", "runtimes")
    _OF_SCORING = ("Row", "Scorer")

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name in _OF_SCORING:
            return getattr(import_module(f"{__name__}.scoring"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES, *_OF_SCORING})


__all__ = ["ImageError", "MusiqError", "Row", "Scorer", "__version__", "create_metric", "load"]


def load(
    model: Model | Sequence[Model] | None = None,
    device: str = "auto",
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    mode: str = "latency",
    resize: str | None = None,
    max_pixels: int = 178_000_000,
    max_tokens: int = 12_288,
    background: Background = "white",
    reduced_jpeg: bool = False,
    jpeg_decoder: str = "opencv",
    frames: str | int | None = None,
    per_frame: bool = False,
) -> Scorer:
    """Open a model for scoring: `musiq.load("model.onnx").score("photo.jpg")`.

    Of several, `musiq.load(["landscape.onnx", "portrait.onnx"])`, each image goes to the nearest aspect ratio.

    Args:
        model: The path of an artifact or checkpoint, the name of a published model (musiq-score --list-models), or a
            Runtime that is open already; or a sequence of them. None: the
            newest in exports/, else the one that comes with this package; which is said on stderr.
        device: "auto", "cpu", "cuda:0"; for .onnx also "tensorrt:0" and "cuda-graph:0", for .pt2 "cuda-compile:0".
        batch_size: Images that go to a model at once, at least 1; for a model of any size those of 1024x768, of smaller
            ones more. None: as many as keep the device busy, fewer of large images on CPUs (the runtime's
            `default_batch`).
        workers: Threads that decode ahead of the model, at least 1. None: the CPUs that this process may use, 16 at most.
        threads: The model's own threads on a CPU, at least 1. None: the CPUs that this process may use.
        mode: "latency": on a CPU all threads work on one batch. "throughput", for .onnx and .xml on CPUs: each thread
            works on a batch of its own, by default so much smaller.
        resize: What a model of any size sees of an image: "native", all of its pixels; "longer=N" or "shorter=N", it
            shrunk until that side has N; "longer=N,enlarge", it also enlarged. None: what the model brings, else
            "native". A model of one size has "cover" alone: the image made to cover it, and the middle cropped.
        max_pixels: An image of more pixels is not decoded, and its row says so; at least 1. The default is the limit of
            Pillow's guard against decompression bombs.
        max_tokens: An image that has more tokens in a model of any size is not scored, and its row says what to do; at
            least 1. The default lets 4000x3000 pixels through.
        background: "white" or "black", what transparent pixels are laid over.
        reduced_jpeg: Decode a JPEG of at least 4 times the height and width that the model sees at 1/2 to 1/8 of its size:
            faster, and scores change a little.
        jpeg_decoder: "opencv", or "nvimagecodec": NVIDIA's package, on the GPU of the model where it has one; its pixels
            differ there by rounding.
        frames: Which frames of a video are scored: "all", a number (so many, evenly spread over its time) or "every=1.5s".
            None: 8. Where it is given, GIFs and animated WebPs are videos too; else they are images.
        per_frame: Give each frame of a video a row of its own, with `frame` and `time_s`.

    Returns:
        A Scorer; close it, or use it as a context manager.

    Raises:
        MusiqError: A model cannot be opened, models do not go together, or an option makes no sense.
    """
    from musiq.scoring import Scorer

    return Scorer(
        model,
        device,
        batch_size=batch_size,
        workers=workers,
        threads=threads,
        mode=mode,
        resize=resize,
        max_pixels=max_pixels,
        max_tokens=max_tokens,
        background=background,
        reduced_jpeg=reduced_jpeg,
        jpeg_decoder=jpeg_decoder,
        frames=frames,
        per_frame=per_frame,
    )


def create_metric(
    model: str | Path | None = None,
    device: str | torch.device = "auto",
    *,
    as_loss: bool = False,
    resize: str | None = None,
) -> Metric:
    """Open a checkpoint as a metric or loss of PyTorch: `musiq.create_metric("musiq-koniq")(images)`.

    Args:
        model: The path of a checkpoint: this project's, pyiqa's, the original's; or a published one's name, "musiq-koniq".
            None: the one that comes with this package.
        device: "auto" (a GPU where there is one), "cpu", "cuda:0", or any other of PyTorch's.
        as_loss: Whether gradients reach the images; values outside [0, 1] pass then, and what a policy resizes is not
            rounded to whole pixel values.
        resize: As of `load`: "native", "longer=N" or "shorter=N" for a model of any size. None: what the model brings.

    Returns:
        A torch module. Called on (N, 3, H, W) of floats in [0, 1], on a path, or on a list of either, it gives the scores
        (N,), the same as `load` does for the same pixels.

    Raises:
        MusiqError: PyTorch is not installed, there is no such checkpoint, device or policy.
    """
    from musiq.errors import check_installed

    check_installed(("torch", "torchvision", "einops"), "musiq.create_metric", "train")
    from musiq.torch_metric.metric import create_metric as create

    return create(model, device, as_loss=as_loss, resize=resize)
