"""The whole of MUSIQ, for images of one fixed size, in this file: pyramid, trunk, transformer, head.

After Ke et al., "MUSIQ: Multi-scale Image Quality Transformer" (ICCV 2021, arXiv 2108.05997). A fixed image size makes
constants of the resize matrices, the hashed positions and the scale embeddings, and leaves no padding tokens and no mask:
the original pads the resized scales and then attends to nobody there. Only the batch is dynamic.

Shapes: B batch, N tokens, D width of the model, H W image, h w a scale of it, R C its grid of tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from musiq.spec import PATCH

PIXELS_AT_ONCE = 2**17
"""Pixels of the images that a CPU takes through a ResNet at once. Eight images in parts of one and two, to all at once,
in eager PyTorch on 2 cores of an Intel Xeon: 0.83 and 0.88 of the time at 1024x768, 0.77 and 0.71 at 512x384, 0.85 and 0.85
at 224x224."""


def _all_at_once(x: Tensor) -> bool:
    """Whether parts do not pay, as on a GPU, which would wait for their launches, or must not end in a graph."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


PATCHES_AT_ONCE = 128
"""Patches whose activations, up to 64 KB each, a CPU works on before it takes the next ones. `musiq` at 1024x768 on 2 cores
of an Intel Xeon, eager PyTorch, one image: 0.73 of the time of all patches at once, with 153 0.72, 54 0.83 and 16 1.17;
eight images: 0.76, with 153 0.64, 54 0.74 and 16 0.94."""


def each_patch(features: Callable[[Tensor], Tensor], scales: list[Tensor], at_once: int = 0) -> Tensor:
    """Scales (B, 3, h, w) to (B, N-1, D), by `features` from (P, 3, 32, 32) to (P, D) over every patch by itself.

    On a CPU in parts, between whose operators less leaves the caches and less memory is needed; on a GPU, which would wait
    for each launch, all at once. A graph that is traced does not know where it will run: it is told `at_once`, the most
    patches of each image in a part.
    """
    patches = torch.cat([to_patches(scale) for scale in scales], dim=1)  # (B, N-1, 3, 32, 32)
    if at_once and at_once < patches.shape[1]:
        parts = patches.split(_even(patches.shape[1], at_once), dim=1)
        return torch.cat([features(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1])) for x in parts], dim=1)
    flat = patches.flatten(0, 1)
    if at_once or _all_at_once(flat):
        return features(flat).unflatten(0, (-1, patches.shape[1]))
    found = [features(x) for x in flat.split(_even(len(flat), PATCHES_AT_ONCE))]
    return torch.cat(found).unflatten(0, (-1, patches.shape[1]))


def _even(n: int, most: int) -> int:
    """The size of parts of `n` that hold `most` each at most, and as nearly the same as can be."""
    return -(-n // -(-n // most))


def to_patches(x: Tensor) -> Tensor:
    """(B, 3, h, w) to (B, R*C, 3, 32, 32), row by row, zero-padded as TensorFlow's SAME: the smaller half before."""
    down, across = -x.shape[2] % PATCH, -x.shape[3] % PATCH
    if down or across:
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
    return rearrange(x, "b c (R p) (C q) -> b (R C) c p q", p=PATCH, q=PATCH)
