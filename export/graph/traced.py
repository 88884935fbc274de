"""The modules that are traced: from the artifact's inputs to its outputs, in the precision that was asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from musiq.model.chunking import PATCHES_AT_ONCE
from musiq.model.half_precision import in_precision
from musiq.model.network import Musiq

from ..request import MOST_PARTS, Request
from .simplify_patch_trunk import FoldedPatchTrunk


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
    """The module to trace, an example of its inputs with a batch of 2, and their names."""
    model = in_precision(request.model, request.precision)
    if isinstance(model.trunk, FoldedPatchTrunk):
        patches = model.spec.tokens - 1
        in_parts = max(PATCHES_AT_ONCE, -(-patches // MOST_PARTS))
        model.trunk.at_once = in_parts if request.tuned_for == "cpu" else patches
    image = torch.zeros(2, model.spec.height, model.spec.width, 3, dtype=torch.uint8)
    if request.inputs == "image":
        return FromImage(model).eval(), (image,), ["image"]
    with torch.no_grad():
        return FromPyramid(model).eval(), tuple(model.pyramid(image)), list(model.pyramid.names)


def output_names(model: Musiq) -> list[str]:
    return ["score"] if model.spec.outputs == 1 else ["score", "shares"]
