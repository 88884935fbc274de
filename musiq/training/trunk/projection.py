"""The first weights of the layer that projects a trunk's features, from the first training images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from musiq.model.network import Musiq, TimmTrunk

IMAGES = 96
"""That the channels' means and deviations are taken from, at most."""


@torch.no_grad()
def standardise_projection(model: Musiq, images: Iterable[Tensor]) -> None:
    """Let the projection begin as if each of its input channels had mean 0 and deviation 1 over the tokens of some images:
    those of a network differ a hundredfold, and random weights would hear the loud ones alone.

    Args:
        model: With a trunk of timm's; put into eval mode.
        images: Batches of uint8 (B, H, W, 3).
    """
    trunk = model.eval().trunk
    assert isinstance(trunk, TimmTrunk)
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in images:
        for scale in trunk.padded(model.pyramid(batch)):
            tokens = trunk.maps(scale).double().transpose(0, 1).flatten(1)  # (C, B*R*C)
            count += tokens.shape[1]
            total, squares = total + tokens.sum(1).cpu(), squares + tokens.square().sum(1).cpu()
    if not count:
        return
    mean = total / count
    spread = (squares / count - mean**2).clamp(min=0).sqrt()
    spread = spread.clamp(min=1e-3 * float(spread.max()))  # channels that are nearly constant stay quiet
    weight, bias = trunk.project.weight, trunk.project.bias
    assert bias is not None
    scaled = weight.double().flatten(1) / spread.to(weight.device)
    bias.sub_((scaled @ mean.to(weight.device)).to(bias.dtype))
    weight.copy_(scaled[:, :, None, None])
