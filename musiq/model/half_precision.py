"""Casts a model to fp16 or bf16, with fp32 where scores need it: what half-precision artifacts are traced from."""

from __future__ import annotations

import copy

import torch

from musiq.errors import MusiqError
from musiq.model.network import Musiq

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def in_precision(model: Musiq, precision: str) -> Musiq:
    """A copy of a model with trunk, transformer and head in a precision of floats.

    The pyramid and the reading of the head stay in fp32. Norms read and write `precision` and compute in fp32 within: so
    does PyTorch, and ONNX says it of LayerNormalization (stash_type 1). They must: `resnet50-classic` adds 1e-12 to
    variances, zero in fp16, and sums of squares leave fp16's range. Casts around fp32 norms would cost time instead.

    Args:
        model: In fp32; it stays as it is.
        precision: "fp32", "fp16" or "bf16".

    Raises:
        MusiqError: There is no such precision.
    """
    if precision not in DTYPES:
        raise MusiqError(f"There is no precision {precision!r} of floats; there are {', '.join(DTYPES)}.")
    model = copy.deepcopy(model)
    if precision == "fp32":
        return model
    pyramid = model.pyramid
    model.to(DTYPES[precision])
    pyramid.float()
    model.ratings = model.ratings.float()
    return model
