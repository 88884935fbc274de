"""The paper's trunk with fewer passes over memory: an image of 1024x768 has 918 patches of 32x32 with up to 64 KB of
activations each, which leave the caches between one operator and the next.

    relu(g n + b) = g relu(n + b/g)             where g > 0: g goes into the weights that read it
    max_pool(relu(n + b/g)) = relu(max_pool(n) + b/g)           on a quarter of the pixels
    relu(g n + b + h m + c) = g relu(n + (h/g) m + (b + c)/g)   the sum of block and shortcut

with n and m normalised groups, g and h the scales of their norms, b and c the shifts. A norm with a scale of zero or less
among its channels keeps it. The 1x1 convolutions are products of matrices, which read and write channels first as
the norms do: convolutions would have them in blocks.

Between products each patch is one row of all its channels and pixels, and scales and shifts are written out for each
pixel: of a (P, C, 8, 8) whose batch is open OpenVINO takes 64 pixels at a time, which is several times slower.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musiq.model.chunking import each_patch
from musiq.model.network import PatchTrunk, cut_patches, padded_for_root, pool_root
from musiq.spec import PATCH

ROOT_SIDE, SIDE = PATCH // 2, PATCH // 4
"""Pixels of a patch's side after the first convolution, and after pooling."""


def row(values: Tensor, side: int) -> Tensor:
    """(C,) to (C * side * side,): a value for each channel, written out for each pixel."""
    return values.repeat_interleave(side**2)


class UnscaledGroupNorm(nn.Module):
    """A group norm without scales and shifts, (P, C, h, w) or rows of it to rows (P, C * h * w): written as a layer norm
    over each group, since an exporter writes a group norm's own as products with ones."""

    def __init__(self, norm: nn.GroupNorm, side: int) -> None:
        super().__init__()
        self.groups, size = norm.num_groups, norm.num_channels // norm.num_groups * side**2
        self.norm = nn.LayerNorm(size, norm.eps, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        n: Tensor = self.norm(x.flatten(1).unflatten(1, (self.groups, -1)))
        return n.flatten(1)


class ShiftedGroupNorm(nn.Module):
    """A group norm without its positive scale, which `factor` (C,) gives to those who read the result: x to the rows of
    n + shift. Where it is pooled before it is shifted, `side` becomes `pooled`."""

    shift: Tensor
    scale: Tensor | None

    def __init__(self, norm: nn.GroupNorm, side: int, pooled: int | None = None) -> None:
        super().__init__()
        gain, shift = norm.weight.detach(), norm.bias.detach()
        self.positive = bool((gain > 0).all())
        self.bare = UnscaledGroupNorm(norm, side)
        self.factor = gain if self.positive else torch.ones_like(gain)
        side = pooled if pooled and self.positive else side
        self.register_buffer("shift", row(shift / self.factor, side))
        self.register_buffer("scale", None if self.positive else row(gain, side))

    def forward(self, x: Tensor) -> Tensor:
        return self.moved(self.bare(x))

    def moved(self, n: Tensor) -> Tensor:
        return n + self.shift if self.scale is None else n * self.scale + self.shift


class PointwiseConv(nn.Module):
    """A 1x1 convolution whose inputs' channels have been multiplied by `factor` (C,): rows (P, C * h * w) to
    (P, D, h * w)."""

    weight: Tensor

    def __init__(self, convolution: nn.Module, factor: Tensor) -> None:
        super().__init__()
        assert isinstance(convolution, nn.Conv2d)
        self.register_buffer("weight", convolution.weight.detach().flatten(1) * factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x.unflatten(1, (self.weight.shape[1], -1))


class FoldedPatchTrunk(nn.Module):
    """`PatchTrunk` after the three rules above; its convolutions must be plain ones."""

    ratio: Tensor
    last_shift: Tensor
    at_once, open_parts = 0, False  # see `each_patch`

    def __init__(self, trunk: PatchTrunk) -> None:
        super().__init__()
        self.any_size = trunk.any_size
        self.conv_root, self.conv2, self.dense = trunk.conv_root, trunk.conv2, trunk.dense
        self.root = ShiftedGroupNorm(trunk.norm_root, ROOT_SIDE, pooled=SIDE)
        self.first, self.second = ShiftedGroupNorm(trunk.norm1, SIDE), ShiftedGroupNorm(trunk.norm2, SIDE)
        last = ShiftedGroupNorm(trunk.norm3, SIDE)
        self.last = last.bare if last.positive else last
        self.shortcut = UnscaledGroupNorm(trunk.norm_shortcut, SIDE)
        ratio, shift = trunk.norm_shortcut.weight.detach(), trunk.norm_shortcut.bias.detach()
        if last.positive:
            shift = shift + trunk.norm3.bias.detach()
        self.register_buffer("ratio", row(ratio / last.factor, SIDE))
        self.register_buffer("last_shift", row(shift / last.factor, SIDE))
        self.conv1 = PointwiseConv(trunk.conv1, self.root.factor)
        self.conv_shortcut = PointwiseConv(trunk.conv_shortcut, self.root.factor)
        self.conv2.weight.data = self.conv2.weight * self.first.factor[:, None, None]
        self.conv3 = PointwiseConv(trunk.conv3, self.second.factor)
        self.dense.weight.data = self.dense.weight * row(last.factor, SIDE)

    def forward(self, scales: list[Tensor]) -> Tensor:
        return self.tokens(cut_patches(scales, are_padded=self.any_size))

    def tokens(self, patches: Tensor) -> Tensor:
        """Patches (B, N-1, 3, 32, 32) to tokens (B, N-1, D)."""
        return each_patch(self.patch, patches, self.at_once, self.open_parts)

    def patch(self, x: Tensor) -> Tensor:
        x = self._root(self.conv_root(padded_for_root(x)))  # rows of (P, 64, 8, 8)
        shortcut = self.shortcut(self.conv_shortcut(x))
        x = F.relu(self.first(self.conv1(x)))
        x = F.relu(self.second(self.conv2(x.unflatten(1, (-1, SIDE, SIDE)))))
        x = F.relu(self.last(self.conv3(x)) + (shortcut * self.ratio + self.last_shift))  # rows of (P, 256, 8, 8)
        return self.dense(x)

    def _root(self, x: Tensor) -> Tensor:
        """Norm, activation and pooling, in the cheapest order: (P, 64, 16, 16) to rows of (P, 64, 8, 8)."""
        if self.root.positive:
            return F.relu(self.root.moved(pool_root(self.root.bare(x).unflatten(1, x.shape[1:])).flatten(1)))
        return pool_root(F.relu(self.root(x)).unflatten(1, x.shape[1:])).flatten(1)
