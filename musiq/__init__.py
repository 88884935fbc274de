"""MUSIQ, the multi-scale image quality transformer, for production.

    import musiq

    with musiq.load("model.onnx") as scorer:
        scorer.score("photo.jpg")

Importing this package takes no time and none of the heavy packages: what scores is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from musiq.errors import ImageError, MusiqError
from musiq.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from musiq.images.decode import Background
    from musiq.scoring import Row, Scorer
    from musiq.scoring.open_models import Model
else:

    def __getattr__(name: str) -> object:
        if name not in ("Row", "Scorer"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from musiq import scoring

        return getattr(scoring, name)


__all__ = ["ImageError", "MusiqError", "Row", "Scorer", "__version__", "load"]


def load(
    model: Model | Sequence[Model],
    device: str = "auto",
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    mode: str = "latency",
    max_pixels: int = 178_000_000,
    background: Background = "white",
    reduced_jpeg: bool = False,
    jpeg_decoder: str = "opencv",
) -> Scorer:
    """Open a model for scoring: `musiq.load("model.onnx").score("photo.jpg")`.

    Of several, `musiq.load(["landscape.onnx", "portrait.onnx"])`, each image goes to the nearest aspect ratio.

    Args:
        model: The path of an artifact or checkpoint, or a Runtime that is open already; or a sequence of them.
        device: "auto", "cpu", "cuda:0"; for .onnx also "tensorrt:0" and "cuda-graph:0", for .pt2 "cuda-compile:0".
        batch_size: Images that go to a model at once, at least 1. None: as many as keep the device busy, fewer of large
            images on CPUs.
        workers: Threads that decode ahead of the model, at least 1. None: the CPUs that this process may use, 16 at most.
        threads: The model's own threads on a CPU, at least 1. None: the CPUs that this process may use.
        mode: "latency": on a CPU all threads work on one batch. "throughput", for .onnx and .xml on CPUs: each thread
            works on a batch of its own, by default so much smaller.
        max_pixels: An image of more pixels is not decoded. The default is the limit of Pillow's guard against
            decompression bombs.
        background: "white" or "black", what transparent pixels are laid over.
        reduced_jpeg: Decode a JPEG of at least 4 times the model's height and width at 1/2 to 1/8 of its size: faster,
            and scores change a little.
        jpeg_decoder: "opencv", or "nvimagecodec": NVIDIA's package, on the GPU of the model where it has one; its pixels
            differ there by rounding.

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
        max_pixels=max_pixels,
        background=background,
        reduced_jpeg=reduced_jpeg,
        jpeg_decoder=jpeg_decoder,
    )
