"""The eager MUSIQ of the package pyiqa, which others are measured beside: on images, and its own way from files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from musiq.errors import MusiqError
from musiq.model.tensor_files import read_torch
from musiq.runtimes.base import Images

PYIQA = "pyiqa"
"""Instead of a file: the MUSIQ of that package in eager PyTorch, with random weights; "pyiqa=FILE" with those of a file."""

HEAD = "head.weight"
"""The tensor of its layout that tells how many outputs the model has."""


def open_pyiqa(threads: int, weights: Path | None = None) -> Callable[[Images], NDArray[Any]]:
    """pyiqa's own model: uint8 (N, H, W, 3) to its N scores.

    Args:
        threads: Of PyTorch.
        weights: A file in pyiqa's layout; None for random weights.

    Raises:
        MusiqError: pyiqa is not installed, or the file holds no weights of its MUSIQ.
    """
    torch, model = _model(threads, weights)

    def call(images: Images) -> NDArray[Any]:
        with torch.inference_mode():  # float32 (N, 3, H, W) of 0-1 is what pyiqa's own loader hands over
            return model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).numpy().ravel()

    return call


def open_pyiqa_for_files(threads: int, weights: Path | None = None) -> Callable[[Path], float]:
    """pyiqa's own way from a file to its score: decoded by Pillow, made a tensor by torchvision. See `open_pyiqa`."""
    torch, model = _model(threads, weights)
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    def call(file: Path) -> float:
        with torch.inference_mode():
            return float(model(to_tensor(Image.open(file).convert("RGB"))[None]).item())

    return call


def _model(threads: int, weights: Path | None) -> tuple[Any, Any]:
    """torch and the model."""
    try:
        import torch
        from pyiqa.archs.musiq_arch import MUSIQ  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as problem:
        raise MusiqError(
            f"pyiqa cannot be imported ({problem}): install it (pip install pyiqa; its licence forbids commercial use), "
            "or leave it out."
        ) from problem
    torch.set_num_threads(threads)
    if weights is None:
        return torch, MUSIQ(pretrained=False).eval()
    found: Any = read_torch(weights)
    tensors = found.get("params", found) if isinstance(found, Mapping) else {}
    try:
        model = MUSIQ(pretrained=False, num_class=len(tensors[HEAD])).eval()
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as problem:
        said = " ".join(str(problem).split())[:200]
        raise MusiqError(
            f"{weights} does not hold the weights of pyiqa's MUSIQ ({said}): give one of its .pth files."
        ) from problem
    return torch, model
