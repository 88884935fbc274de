"""The modules that are traced: from the artefact's inputs to its outputs, in the precision that was asked for."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from musiq.errors import MusiqError
from musiq.model import Musiq

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class FromImage(nn.Module):
    """uint8 (B, H, W, 3) to scores (B,), and shares (B, K) where the model has them."""

    def __init__(self, model: Musiq) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.model.predict(image)


class FromPyramid(nn.Module):
    """The normalised pictures of the pyramid, float (B, 3, h, w) in the Spec's order, to the same outputs."""

    def __init__(self, model: Musiq) -> None:
        super().__init__()
        self.model = model

    def forward(self, *scales: Tensor) -> tuple[Tensor, ...]:
        return self.model.read(self.model.rate(list(scales)))


class Fp32Norm(nn.Module):
    """A layer or group norm whose statistics stay in fp32 when the rest does not: `resnet50-classic` adds 1e-12, which is
    zero in fp16, and sums of squared activations leave fp16's range."""

    def __init__(self, norm: nn.LayerNorm | nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm(x.float())).to(x.dtype)


def traced_module(model: Musiq, inputs: str, precision: str) -> tuple[nn.Module, tuple[Tensor, ...], list[str]]:
    """The module to trace, an example of its inputs with a batch of 2, and their names."""
    model = in_precision(model, precision)
    image = torch.zeros(2, model.spec.height, model.spec.width, 3, dtype=torch.uint8)
    if inputs == "image":
        return FromImage(model).eval(), (image,), ["image"]
    with torch.no_grad():
        return FromPyramid(model).eval(), tuple(model.pyramid(image)), list(model.pyramid.names)


def output_names(model: Musiq) -> list[str]:
    return ["score"] if model.spec.outputs == 1 else ["score", "shares"]


def in_precision(model: Musiq, precision: str) -> Musiq:
    """A copy of `model` with trunk, transformer and head in `precision`; the pyramid, the norms and
    the reading of the head stay in fp32."""
    if precision not in DTYPES:
        raise MusiqError(f"There is no precision {precision!r} of floats; there are {', '.join(DTYPES)}.")
    model = copy.deepcopy(model)
    if precision == "fp32":
        return model
    pyramid = model.pyramid
    model.to(DTYPES[precision])
    pyramid.float()
    model.ratings = model.ratings.float()
    _keep_norms(model)
    return model


def _keep_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.LayerNorm | nn.GroupNorm):
            setattr(module, name, Fp32Norm(child))
        else:
            _keep_norms(child)
