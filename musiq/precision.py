"""A model in fp16 or bf16 with fp32 where scores need it: what half-precision artefacts are traced from."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from musiq.errors import MusiqError
from musiq.model import Musiq

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Fp32Norm(nn.Module):
    """A layer or group norm whose statistics stay in fp32 when the rest does not: `resnet50-classic` adds 1e-12, which is
    zero in fp16, and sums of squared activations leave fp16's range."""

    def __init__(self, norm: nn.LayerNorm | nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm(x.float())).to(x.dtype)


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
