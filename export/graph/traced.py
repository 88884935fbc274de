"""The modules that are traced: from the artifact's inputs to its outputs, in the precision that was asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from musiq.model.chunking import PATCHES_AT_ONCE
from musiq.model.half_precision import in_precision
from musiq.model.network import Musiq

from ..request import MOST_PARTS, Request, feed
from .patches import patch_dynamic_shapes, patch_module
from .simplify_patch_trunk import FoldedPatchTrunk

EXAMPLE = 328, 456
"""Height and width that a graph for any size is traced at: none that a constant could stand for."""


class FromImage(nn.Module):
    """uint8 (B, H, W, 3) to scores (B,), and shares (B, K) where the model has them."""

    def __init__(self, model: Musiq) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.model.predict(image)


class FromPyramid(nn.Module):
    """The normalised images of the pyramid, float (B, 3, h, w) in the Spec's order, to the same outputs."""

    def __init__(self, model: Musiq) -> None:
        super().__init__()
        self.model = model

    def forward(self, *scales: Tensor) -> tuple[Tensor, ...]:
        return self.model.read(self.model.rate(list(scales)))


def traced_module(request: Request) -> tuple[nn.Module, tuple[Tensor, ...], list[str]]:
    """The module to trace, an example of its inputs, and their names: with a batch of 2, or the only one there is."""
    batch = request.batch.largest if request.batch.is_static else 2
    model = in_precision(request.model, request.precision)
    if isinstance(model.trunk, FoldedPatchTrunk):
        _divide(model.trunk, request)
    if feed(request).takes_patches:
        return patch_module(model, request, batch)
    if model.spec.any_size:
        return FromImage(model).eval(), (torch.zeros(batch, *EXAMPLE, 3, dtype=torch.uint8),), ["image"]
    image = torch.zeros(batch, *model.spec.fixed_size, 3, dtype=torch.uint8)
    if request.inputs == "image":
        return FromImage(model).eval(), (image,), ["image"]
    with torch.no_grad():
        return FromPyramid(model).eval(), tuple(model.pyramid(image)), list(model.pyramid.names)


def _divide(trunk: FoldedPatchTrunk, request: Request) -> None:
    """Tell the trunk in what parts it works on patches."""
    on_cpu, spec = request.tuned_for == "cpu", request.model.spec
    if feed(request).has_open_sizes:
        # Parts of patches that are the inputs would be made for large images alone.
        trunk.open_parts = on_cpu and not request.whole_attention and not feed(request).takes_patches
        return
    patches = (request.tokens[1] if spec.any_size else spec.tokens) - 1
    trunk.at_once = max(PATCHES_AT_ONCE, -(-patches // MOST_PARTS)) if on_cpu else patches


def dynamic_shapes(request: Request, example: tuple[Tensor, ...]) -> Any:
    """What is open of the example's shapes, as torch.export takes it; None for nothing."""
    from torch.export import Dim

    if feed(request).takes_patches:
        return patch_dynamic_shapes(request)
    if request.model.spec.any_size:
        sides = {1: Dim("height", min=1), 2: Dim("width", min=1)}
        return ({**({} if request.batch.is_static else {0: Dim("batch", min=1)}), **sides},)
    if request.batch.is_static:
        return None
    shapes = tuple({0: Dim("batch", min=1)} for _ in example)
    return (shapes,) if request.inputs == "pyramid" else shapes  # the module of a pyramid takes *scales


def output_names(model: Musiq) -> list[str]:
    return ["score"] if model.spec.outputs == 1 else ["score", "shares"]
