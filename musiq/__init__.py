"""MUSIQ, the multi-scale image quality transformer, for production. Importing this needs numpy, OpenCV and click alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiq.errors import ImageError, MusiqError
from musiq.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from musiq.scoring.scorer import Scorer

__all__ = ["ImageError", "MusiqError", "__version__", "load"]


def load(path: Path | str | Sequence[Path | str], device: str = "auto", **options: Any) -> Scorer:
    """Open a checkpoint or an artifact for scoring: `musiq.load("model.onnx").score("photo.jpg")`.

    Of several, `musiq.load(["landscape.onnx", "portrait.onnx"])`, each image goes to the nearest aspect ratio.
    `device` is "auto", "cpu" or "cuda:0"; `options` are those of `musiq.scoring.scorer.Scorer`.
    """
    from musiq.scoring.scorer import Scorer

    return Scorer(path, device=device, **options)
