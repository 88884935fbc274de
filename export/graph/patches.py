"""The core of a model behind the cut: from patches, which the runtime cuts on the CPU, to scores. Its one open size is the
number of tokens, which engines and CUDA graphs can be made for, where they cannot for height and width."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musiq.model.any_size import AnySizeEmbeddings
from musiq.model.network import Musiq
from musiq.runtimes.batching import DTYPES

from ..request import Request, feed

EXAMPLE = 46
"""Tokens that a graph for any number of them is traced with: none that a constant could stand for."""

HIDDEN = -30000.0
"""Added to the logit of a token that is not there. Its weight is zero in every precision then, which an infinity would
make it too, but not where a runtime subtracts one from another."""


class FromPatches(nn.Module):
    """Patches float (B, N, 3, 32, 32) and their rows in the position and scale embeddings, int32 (B, N), to scores (B,),
    and shares (B, K) where the model has them. With `lengths`, int32 (B,), the first so many patches of each image alone
    are looked at."""

    def __init__(self, model: Musiq) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, patches: Tensor, positions: Tensor, scales: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        model, embed = self.model, cast(AnySizeEmbeddings, self.model.embed)
        x = cast(Any, model.trunk).tokens(patches.to(embed.class_token.dtype))
        x = x + F.embedding(positions, embed.position) + F.embedding(scales, embed.scale)
        x = torch.cat([embed.class_token.expand(x.shape[0], 1, -1), x], dim=1)
        mask = None if lengths is None else hidden(x, lengths)
        return model.read(model.rate_tokens(x, mask))


def hidden(x: Tensor, lengths: Tensor) -> Tensor:
    """The mask (B, 1, 1, N) of tokens (B, N, D) that hides those after the class token and each image's own."""
    place = torch.arange(x.shape[1], dtype=lengths.dtype, device=x.device)
    is_hidden = (place > lengths[:, None]).to(x.dtype)
    return (is_hidden * HIDDEN)[:, None, None]


def patch_module(model: Musiq, request: Request, batch: int) -> tuple[nn.Module, tuple[Tensor, ...], list[str]]:
    """As `traced.traced_module`, of a model in the precision that was asked for."""
    taken = feed(request)
    shapes = taken.shapes(EXAMPLE if taken.has_open_sizes else 0)
    example = {
        name: torch.zeros(batch, *shape, dtype=torch.int32 if name in DTYPES else None)
        for name, shape in shapes.items()
    }
    if "lengths" in example:
        example["lengths"] += shapes["patches"][0]
    return FromPatches(model).eval(), tuple(example.values()), list(example)


def patch_dynamic_shapes(request: Request) -> Any:
    """As `traced.dynamic_shapes`."""
    from torch.export import Dim

    batch = {} if request.batch.is_static else {0: Dim("batch", min=1)}
    count = {1: Dim("count", min=1)} if feed(request).has_open_sizes else {}
    shapes = tuple({**batch, **(count if shape else {})} for shape in feed(request).shapes().values())
    return shapes if batch or count else None
