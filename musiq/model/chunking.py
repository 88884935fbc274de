"""Works on a few images or patches at a time where a trunk runs on a CPU, whose caches do not hold more activations.

What comes out is the same; network.py can be read without this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from musiq.model.any_size import is_tracing, larger

PIXELS_AT_ONCE = 2**17
"""Pixels of the images that a CPU takes through a ResNet at once: an image of 1024x768 alone, two of 256x224."""

PATCHES_AT_ONCE = 128
"""Patches, of up to 64 KB of activations each, that a CPU works on before it takes the next ones. Fewer leave its threads
too little to share, more leave its caches."""

OPEN_PARTS, LEAST_OPEN = 4, 1024
"""Parts of a graph that does not know how many patches it gets, and the patches that one holds at least."""


def few_images(features: Callable[[Tensor], Tensor], x: Tensor, training: bool) -> Tensor:
    """`features` of the images x (B, C, h, w), a few at once where that pays."""
    # Batch norms that learn need the whole batch, and a graph must not know how many images it was traced with.
    if training or _all_at_once(x):
        return features(x)
    return torch.cat([features(part) for part in x.split(max(1, PIXELS_AT_ONCE // (x.shape[2] * x.shape[3])))])


def each_patch(
    features: Callable[[Tensor], Tensor], patches: Tensor, at_once: int = 0, open_parts: bool = False
) -> Tensor:
    """`features`, from (P, 3, 32, 32) to (P, D), of every patch by itself: (B, N-1, 3, 32, 32) to (B, N-1, D).

    A graph that is traced does not know where it will run: it is told `at_once`, the most patches of each image in a part,
    or where it does not know their number either, to have `open_parts`.
    """
    per_image = patches.shape[1]
    if open_parts:
        tokens = torch.cat([features(part) for part in _open_parts(patches.flatten(0, 1))])
        if not is_tracing():
            torch._check(tokens.shape[0] == patches.shape[0] * per_image)
        return tokens.unflatten(0, (patches.shape[0], per_image))
    if at_once and at_once < per_image:
        parts = patches.split(_even(per_image, at_once), dim=1)
        return torch.cat([features(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1])) for x in parts], dim=1)
    flat = patches.flatten(0, 1)
    if at_once or _all_at_once(flat):
        return features(flat).unflatten(0, (-1, per_image))
    found = [features(x) for x in flat.split(_even(len(flat), PATCHES_AT_ONCE))]
    return torch.cat(found).unflatten(0, (-1, per_image))


def _open_parts(patches: Tensor) -> list[Tensor]:
    """OPEN_PARTS parts of patches (P, 3, 32, 32), the later ones empty unless there are many."""
    count = patches.shape[0]
    size = larger((count + OPEN_PARTS - 1) // OPEN_PARTS, LEAST_OPEN)
    if is_tracing():
        return [patches[i * size : (i + 1) * size] for i in range(OPEN_PARTS)]
    # Lengths that an export knows nothing of: each step would have a formula for how many patches it has, and making and
    # opening a graph would take several times as long.
    lengths = [_opaque_length(count - i * size, size) for i in range(OPEN_PARTS)]
    torch._check(sum(lengths) == count)
    return list(patches.split(lengths))


def _opaque_length(left: Any, most: Any) -> Any:
    length: Any = (torch.ones((), dtype=torch.int64) * left).clamp(min=0, max=most).item()
    torch._check(length >= 0)
    return length


def _all_at_once(x: Tensor) -> bool:
    """Whether parts do not pay, as on a GPU, which would wait for their launches, or must not end in a graph."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    return is_tracing()


def _even(n: int, most: int) -> int:
    """The size of parts of `n` that hold `most` each at most, and as nearly the same as can be."""
    return -(-n // -(-n // most))
