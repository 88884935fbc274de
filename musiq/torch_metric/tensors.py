"""Refuses tensors that are no images, each by what is wrong with it."""

from __future__ import annotations

import torch
from torch import Tensor

from musiq.errors import MusiqError
from musiq.images.fit import LONGEST_SIDE

SLACK = 1e-3
"""How far values may be outside [0, 1]: resizes and half precision leave it by less."""

WANTED = "expected floats (N, 3, H, W), RGB in [0, 1]"


def check_layout(image: object, in_list: bool) -> Tensor:
    """The image as (N, 3, H, W).

    Args:
        image: What was given.
        in_list: Whether it was inside a list, where (3, H, W) is one image.

    Raises:
        MusiqError: It is no tensor, holds no floats, or has another layout.
    """
    if not isinstance(image, Tensor):
        kind = type(image)
        raise MusiqError(
            f"Cannot score a {kind.__module__}.{kind.__qualname__}; {WANTED}, or the path of a file. An array is made "
            "one by torch.from_numpy(array)."
        )
    shape = tuple(image.shape)
    if in_list and image.ndim == 3:
        image = image[None]
    if remedy := _why_not(tuple(image.shape)):
        raise MusiqError(f"The tensor has the shape {shape}; {WANTED}: {remedy}.")
    if not image.is_floating_point():
        raise MusiqError(f"The tensor is of {image.dtype}; {WANTED}: divide values of 0 to 255 by 255.")
    return image


def _why_not(shape: tuple[int, ...]) -> str:
    """What to do about a shape; empty for one that is right."""
    if len(shape) == 3:
        return "give one image as image[None]"
    if len(shape) != 4:
        return "one more or fewer dimensions make no images"
    n, channels, height, width = shape
    if channels != 3 and width == 3:
        return "it looks like (N, H, W, 3), so give it as images.permute(0, 3, 1, 2)"
    if channels == 1:
        return "grey becomes RGB by images.expand(-1, 3, -1, -1)"
    if channels == 4:
        return "lay the fourth channel, transparency, over a background and leave it out"
    if channels != 3:
        return f"{channels} channels are not RGB"
    if 0 in (n, height, width):
        return "there is nothing in it"
    return f"a side has {LONGEST_SIDE:,} pixels at most" if max(height, width) > LONGEST_SIDE else ""


def check_values(image: Tensor) -> None:
    """Raise MusiqError for values that are not numbers, or more than SLACK outside [0, 1]."""
    low, high = (float(value) for value in torch.aminmax(image.detach()))
    if low != low or high != high:
        raise MusiqError(f"The tensor holds values that are not a number (NaN); {WANTED}.")
    if low >= -SLACK and high <= 1 + SLACK:
        return
    remedy = "divide values of 0 to 255 by 255" if high > 2 and low >= 0 else "clamp it, or undo its normalisation"
    raise MusiqError(
        f"The tensor's values are from {low:.4g} to {high:.4g}; {WANTED}: {remedy}. As a loss (as_loss=True) they may lie "
        "outside."
    )
