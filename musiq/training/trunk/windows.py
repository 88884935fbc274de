"""A model that trains in two steps: the frozen part's maps, computed or cached, then what learns, on windows of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from musiq.model.network import Musiq
from musiq.training.trunk.stages import CutTrunk, ScaleShapes, scale_shapes

Maps = list[list[Tensor]]
"""Of each scale, as `CutTrunk.maps` gives them."""


def pass_in_steps(model: Musiq, window: float) -> None:
    """Let a model take rows of cached maps, float (B, L), as well as images; in training, what learns sees windows.

    Args:
        model: With a trunk over whole scales.
        window: How much of each side of the maps is seen in training, in (0, 1]. One place, drawn for each call from
            torch's generator, is that of all images and scales of the call.
    """
    cut = CutTrunk.of(model)
    shapes = scale_shapes(cut, model)
    plain: Callable[[Tensor], Tensor] = model.forward

    def forward(given: Tensor) -> Tensor:
        cuts = model.training and window < 1
        if given.dtype != torch.uint8:
            scales = _unflattened(given, shapes)
        elif cuts:
            scales = [cut.maps(scale) for scale in cut.trunk.padded(model.pyramid(given))]
        else:
            return plain(given)
        kept = None
        if cuts:
            scales, kept = cut_windows(scales, shapes, window)
        tokens = torch.cat([cut.tokens(maps) for maps in scales], dim=2).transpose(1, 2)
        return model.rate_tokens(model.embed(tokens, [], kept))

    model.forward = forward  # type: ignore[method-assign, assignment]


def _unflattened(rows: Tensor, shapes: list[ScaleShapes]) -> Maps:
    parts = iter(rows.split([math.prod(shape) for scale in shapes for shape in scale.maps], dim=1))
    return [[next(parts).unflatten(1, shape) for shape in scale.maps] for scale in shapes]


def cut_windows(scales: Maps, shapes: list[ScaleShapes], window: float) -> tuple[Maps, Tensor]:
    """The same window, of whole tokens, of every scale.

    Returns:
        The maps inside, and int64 (K,): which of the tokens of all scales they make, in order.
    """
    down, across = torch.rand(2).tolist()
    found: Maps = []
    kept, before = [], 0
    for maps, shape in zip(scales, shapes, strict=True):
        rows, columns = shape.tokens
        top, height = _span(rows, window, down)
        left, width = _span(columns, window, across)
        inside = torch.arange(rows * columns).unflatten(0, (rows, columns))
        kept.append(before + inside[top : top + height, left : left + width].flatten())
        before += rows * columns
        found.append([])
        for x in maps:
            finer = x.shape[2] // rows  # rows and columns of the map for each token
            found[-1].append(x[:, :, top * finer : (top + height) * finer, left * finer : (left + width) * finer])
    return found, torch.cat(kept).to(scales[0][0].device)


def _span(count: int, window: float, place: float) -> tuple[int, int]:
    """The first of `count` rows or columns in the window, and how many: `place` is in [0, 1)."""
    size = max(1, round(count * window))
    return round(place * (count - size)), size
