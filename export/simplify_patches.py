"""The paper's trunk with fewer passes over memory: a picture of 1024x768 has 918 patches of 32x32 with up to 64 KB of
activations each, which leave the caches between one operator and the next.

    relu(g n + b) = g relu(n + b/g)             where g > 0: g goes into the weights that read it
    max_pool(relu(n + b/g)) = relu(max_pool(n) + b/g)           on a quarter of the pixels
    relu(g n + b + h m + c) = g relu(n + (h/g) m + (b + c)/g)   the sum of block and shortcut

with n and m normalised groups, g and h the scales of their norms, b and c the shifts. A norm with a scale of zero or less
among its channels stays as it was. The 1x1 convolutions are products of matrices, which read and write channels first as
the norms do: convolutions would have them in blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musiq.model import PatchTrunk, each_patch, padded_for_root, pool_root
from musiq.spec import PATCH


class Bare(nn.Module):
    """A group norm without scales and shifts, (P, C, h, w) to the same: written as a layer norm over each group, since an
    exporter writes a group norm's own as products with ones."""

    def __init__(self, norm: nn.GroupNorm, pixels: int) -> None:
        super().__init__()
        self.groups, size = norm.num_groups, norm.num_channels // norm.num_groups * pixels
        self.norm = nn.LayerNorm(size, norm.eps, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        n: Tensor = self.norm(x.unflatten(1, (self.groups, -1)).flatten(2))
        return n.reshape(-1, *x.shape[1:])


class Shifted(nn.Module):
    """A group norm without its positive scale, which `factor` (C,) gives to those who read the result: x to n + shift."""

    shift: Tensor
    scale: Tensor | None

    def __init__(self, norm: nn.GroupNorm, pixels: int) -> None:
        super().__init__()
        gain, shift = norm.weight.detach(), norm.bias.detach()
        self.positive = bool((gain > 0).all())
        self.bare = Bare(norm, pixels)
        self.factor = gain if self.positive else torch.ones_like(gain)
        self.register_buffer("shift", (shift / self.factor)[:, None, None])
        self.register_buffer("scale", None if self.positive else gain[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.moved(self.bare(x))

    def moved(self, n: Tensor) -> Tensor:
        return n + self.shift if self.scale is None else n * self.scale + self.shift


class Product(nn.Module):
    """A 1x1 convolution whose inputs' channels have been multiplied by `factor` (C,): (P, C, h, w) to (P, D, h, w)."""

    weight: Tensor

    def __init__(self, convolution: nn.Module, factor: Tensor) -> None:
        super().__init__()
        assert isinstance(convolution, nn.Conv2d)
        self.register_buffer("weight", convolution.weight.detach().flatten(1) * factor)

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight @ x.flatten(2)).unflatten(2, x.shape[2:])


class FoldedPatchTrunk(nn.Module):
    """`PatchTrunk` after the three rules above; its convolutions must be plain ones."""

    ratio: Tensor
    last_shift: Tensor
    at_once = 0  # see `each_patch`

    def __init__(self, trunk: PatchTrunk) -> None:
        super().__init__()
        self.conv_root, self.conv2, self.dense = trunk.conv_root, trunk.conv2, trunk.dense
        pixels = (PATCH // 4) ** 2
        self.root = Shifted(trunk.norm_root, (PATCH // 2) ** 2)
        self.first, self.second = Shifted(trunk.norm1, pixels), Shifted(trunk.norm2, pixels)
        last = Shifted(trunk.norm3, pixels)
        self.last = last.bare if last.positive else trunk.norm3
        self.shortcut = Bare(trunk.norm_shortcut, pixels)
        left = 0 if not last.positive else trunk.norm3.bias.detach()
        self.register_buffer("ratio", (trunk.norm_shortcut.weight.detach() / last.factor)[:, None, None])
        self.register_buffer("last_shift", ((left + trunk.norm_shortcut.bias.detach()) / last.factor)[:, None, None])
        self.conv1 = Product(trunk.conv1, self.root.factor)
        self.conv_shortcut = Product(trunk.conv_shortcut, self.root.factor)
        self.conv2.weight.data = self.conv2.weight * self.first.factor[:, None, None]
        self.conv3 = Product(trunk.conv3, self.second.factor)
        self.dense.weight.data = self.dense.weight * last.factor.repeat_interleave(pixels)

    def forward(self, scales: list[Tensor]) -> Tensor:
        return each_patch(self.patch, scales, self.at_once)

    def patch(self, x: Tensor) -> Tensor:
        x = self.root.bare(self.conv_root(padded_for_root(x)))  # (P, 64, 16, 16)
        x = self._pooled(x)  # (P, 64, 8, 8)
        shortcut = self.shortcut(self.conv_shortcut(x))
        x = F.relu(self.first(self.conv1(x)))
        x = F.relu(self.second(self.conv2(x)))
        x = F.relu(self.last(self.conv3(x)) + (shortcut * self.ratio + self.last_shift))  # (P, 256, 8, 8)
        return self.dense(x.flatten(1))

    def _pooled(self, n: Tensor) -> Tensor:
        if self.root.positive:
            return F.relu(self.root.moved(pool_root(n)))
        return pool_root(F.relu(self.root.moved(n)))
