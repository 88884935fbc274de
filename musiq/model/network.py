"""The whole of MUSIQ in this file: pyramid, trunk, transformer, head; for images of any size two parts of any_size.py
take the place of `Pyramid` and `Embeddings`.

After Ke et al., "MUSIQ: Multi-scale Image Quality Transformer" (ICCV 2021, arXiv 2108.05997). A fixed image size makes
constants of the resize matrices, the hashed positions and the scale embeddings, and leaves no padding tokens and no mask:
the original pads the resized scales and then attends to nobody there. Images of a batch have one size.

Shapes: B batch, N tokens, D width of the model, H W image, h w a scale of it, R C its grid of tokens.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from musiq.model.any_size import AnySizeEmbeddings, AnySizePyramid, normalisation
from musiq.model.chunking import each_patch, few_images
from musiq.model.timm_features import timm_features
from musiq.patches import position_rows, scale_rows
from musiq.pyramid import Bands, scale_matrices
from musiq.spec import PATCH, Spec


class Pyramid(nn.Module):
    """uint8 (B, H, W, 3) to the list of normalised float (B, 3, h, w) that `spec.scales` names."""

    gain: Tensor
    shift: Tensor
    blocks: Tensor
    read: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.names = [scale.name for scale in spec.scales]
        for name, value in zip(("gain", "shift"), normalisation(spec), strict=True):
            self._constant(name, value)
        matrices = {scale.name: scale_matrices(spec, scale) for scale in spec.scales if scale.length is not None}
        if not matrices:
            return
        # The rows of all scales at once: all read each band of the image.
        bands = Bands.of(np.concatenate([left for left, _ in matrices.values()]))
        self._constant("blocks", torch.from_numpy(bands.blocks))  # (k, r, b)
        self._index("read", bands.columns)  # (k * b,) of H
        start = 0
        for name, (left, right) in matrices.items():
            self._index(f"{name}_rows", bands.rows[start : start + len(left)])  # (h,) of k * r
            self._constant(f"{name}_right", torch.from_numpy(right))  # (W, w)
            start += len(left)

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.float(), persistent=False)

    def _index(self, name: str, value: NDArray[np.int64]) -> None:
        self.register_buffer(name, torch.from_numpy(value), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        # Cast first, then transpose: TensorRT takes a uint8 input into a Cast only. Then normalise: constants that are the
        # same along a row cost a pass over memory, constants that change with each number several times that.
        native = image.to(self.gain.dtype).permute(0, 3, 1, 2) * self.gain + self.shift  # (B, 3, H, W)
        if self.names == ["native"]:
            return [native]
        k, _, b = self.blocks.shape
        down = self.blocks @ native.index_select(2, self.read).unflatten(2, (k, b))  # (k, r, b) @ (B, 3, k, b, W)
        down = down.flatten(2, 3)
        return [native if name == "native" else self._across(name, down) for name in self.names]

    def _across(self, name: str, down: Tensor) -> Tensor:
        return down.index_select(2, self.get_buffer(f"{name}_rows")) @ self.get_buffer(f"{name}_right")


class ResNetTrunk(nn.Module):
    """torchvision's ResNet-50 up to layer4, over each whole scale: one token per 32x32 pixels."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.net = torchvision.models.resnet50(weights=None)
        del self.net.avgpool, self.net.fc
        self.project = nn.Conv2d(2048, spec.dim, 1)

    def forward(self, scales: list[Tensor]) -> Tensor:
        found = [few_images(self._tokens, x, self.training) for x in scales]  # each (B, D, R*C)
        return torch.cat(found, dim=2).transpose(1, 2)  # (B, N-1, D)

    def padded(self, scales: list[Tensor]) -> list[Tensor]:
        """The scales as the network sees them."""
        return scales

    def _tokens(self, x: Tensor) -> Tensor:
        net = self.net
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))  # (B, 64, h/4, w/4)
        x = net.layer4(net.layer3(net.layer2(net.layer1(x))))  # (B, 2048, R, C)
        return self.project(x).flatten(2)  # (B, D, R*C)


class TimmTrunk(nn.Module):
    """A feature extractor of timm's, over each whole scale, padded with zeros to whole patches: one token per 32x32 pixels
    of its maps of `spec.trunk_strides`, the finer ones averaged down."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.any_size, self.strides = spec.any_size, spec.trunk_strides
        self.net = timm_features(spec.timm_name, spec.trunk_strides)
        self.project = nn.Conv2d(sum(cast(Any, self.net.feature_info).channels()), spec.dim, 1)

    def forward(self, scales: list[Tensor]) -> Tensor:
        found = [few_images(self._tokens, x, self.training) for x in self.padded(scales)]  # each (B, D, R*C)
        return torch.cat(found, dim=2).transpose(1, 2)  # (B, N-1, D)

    def padded(self, scales: list[Tensor]) -> list[Tensor]:
        """The scales (B, 3, h, w) as the network sees them."""
        return scales if self.any_size else [padded(scale) for scale in scales]

    def maps(self, x: Tensor) -> Tensor:
        """What tokens are made of, all side by side: (B, 3, R*32, C*32) to (B, sum of channels, R, C)."""
        maps = zip(self.strides, self.net(x), strict=True)  # each (B, channels, h/s, w/s) for its stride s
        return torch.cat([x if stride == PATCH else F.avg_pool2d(x, PATCH // stride) for stride, x in maps], dim=1)

    def _tokens(self, x: Tensor) -> Tensor:
        return self.project(self.maps(x)).flatten(2)  # (B, D, R*C)


class StandardisedConv(nn.Conv2d):
    """Convolution with standardised weights (Qiao et al., arXiv 1903.10520): per output channel minus the mean over
    inputs and taps, over the standard deviation + 1e-5."""

    def __init__(self, inputs: int, outputs: int, size: int, spec: Spec, stride: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, size, stride=stride, padding=padding, bias=False)
        self.correction = 1 if spec.unbiased_std else 0

    def standardised(self) -> Tensor:
        w = self.weight
        w = w - w.mean(dim=(1, 2, 3), keepdim=True)
        return w / (w.std(dim=(1, 2, 3), keepdim=True, correction=self.correction) + 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.standardised(), None, self.stride, self.padding)


class PatchTrunk(nn.Module):
    """The paper's trunk, over each 32x32 patch by itself: a 7x7 convolution, one bottleneck, one dense layer."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.any_size = spec.any_size
        root, wide, groups = spec.trunk_channels, 4 * spec.trunk_channels, spec.trunk_groups
        # Group norms: eps 1e-6 at the root, 1e-4 in the block, as in the original code.
        self.conv_root = StandardisedConv(3, root, 7, spec, stride=2)
        self.norm_root = nn.GroupNorm(groups, root, eps=1e-6)
        self.conv1: nn.Module = StandardisedConv(root, root, 1, spec)
        self.norm1 = nn.GroupNorm(groups, root, eps=1e-4)
        self.conv2 = StandardisedConv(root, root, 3, spec, padding=1)
        self.norm2 = nn.GroupNorm(groups, root, eps=1e-4)
        self.conv3: nn.Module = StandardisedConv(root, wide, 1, spec)
        self.norm3 = nn.GroupNorm(groups, wide, eps=1e-4)
        self.conv_shortcut: nn.Module = StandardisedConv(root, wide, 1, spec)
        self.norm_shortcut = nn.GroupNorm(groups, wide, eps=1e-4)
        # The dense layer reads (channel, row, column); importers reorder the foreign (row, column, channel).
        self.dense = nn.Linear(wide * (PATCH // 4) ** 2, spec.dim)

    def forward(self, scales: list[Tensor]) -> Tensor:
        return self.tokens(cut_patches(scales, are_padded=self.any_size))

    def tokens(self, patches: Tensor) -> Tensor:
        """Patches (B, N-1, 3, 32, 32) to tokens (B, N-1, D)."""
        return each_patch(self.patch, patches)

    def patch(self, x: Tensor) -> Tensor:
        """Patches (P, 3, 32, 32) to tokens (P, D)."""
        x = F.relu(self.norm_root(self.conv_root(padded_for_root(x))))  # (P, 64, 16, 16)
        x = pool_root(x)  # (P, 64, 8, 8)
        shortcut = self.norm_shortcut(self.conv_shortcut(x))
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.relu(self.norm3(self.conv3(x)) + shortcut)  # (P, 256, 8, 8)
        return self.dense(x.flatten(1))


def cut_patches(scales: list[Tensor], are_padded: bool = False) -> Tensor:
    """Scales (B, 3, h, w) to the patches of all of them, one scale after another: (B, N-1, 3, 32, 32).

    Args:
        scales: Of any size; where they `are_padded`, of whole patches already.
    """
    return torch.cat([to_patches(scale if are_padded else padded(scale)) for scale in scales], dim=1)


def padded(x: Tensor) -> Tensor:
    """(B, 3, h, w) with zeros up to whole patches, as TensorFlow's SAME: the smaller half before."""
    down, across = -x.shape[2] % PATCH, -x.shape[3] % PATCH
    if down or across:
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
    return x


def to_patches(x: Tensor) -> Tensor:
    """(B, 3, R*32, C*32) to (B, R*C, 3, 32, 32), row by row."""
    return rearrange(x, "b c (R p) (C q) -> b (R C) c p q", p=PATCH, q=PATCH)


def padded_for_root(x: Tensor) -> Tensor:
    """TensorFlow's SAME for a 7x7 kernel with stride 2."""
    return F.pad(x, (2, 3, 2, 3))


def pool_root(x: Tensor) -> Tensor:
    """(P, C, h, w) to (P, C, h/2, w/2), 3x3 windows. ceil_mode lets the last ones reach one pixel over the far edge:
    TensorFlow's SAME with nothing before, one after."""
    return F.max_pool2d(x, 3, stride=2, ceil_mode=True)


class Embeddings(nn.Module):
    """Adds to each token where it is and in which scale, and puts the class token in front: (B, N-1, D) to (B, N, D)."""

    positions: Tensor
    scales: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.empty(spec.position_grid**2, spec.dim))
        self.scale = nn.Parameter(torch.empty(spec.scale_embeddings, spec.dim))
        self.class_token = nn.Parameter(torch.empty(spec.dim))
        self.register_buffer("positions", torch.from_numpy(position_rows(spec)), persistent=False)
        self.register_buffer("scales", torch.from_numpy(scale_rows(spec)), persistent=False)

    def table(self) -> Tensor:
        """What is added to the tokens, (N-1, D)."""
        return self.position[self.positions] + self.scale[self.scales]

    def forward(self, x: Tensor, scales: list[Tensor], kept: Tensor | None = None) -> Tensor:
        """`kept`: which of the tokens `x` are, in order; None for all of them."""
        table = self.table() if kept is None else self.table()[kept]
        return torch.cat([self.class_token.expand(x.shape[0], 1, -1), x + table], dim=1)


class Attention(nn.Module):
    """Multi-head attention whose heads may be narrower or wider together than the model."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        inner = spec.heads * spec.head_dim
        self.heads = spec.heads
        self.scale = spec.head_dim**-0.5
        self.query = nn.Linear(spec.dim, inner)
        self.key = nn.Linear(spec.dim, inner)
        self.value = nn.Linear(spec.dim, inner)
        self.out = nn.Linear(inner, spec.dim)

    def forward(self, x: Tensor, asking: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the tokens `asking` (B, n, D) gather from all tokens `x` (B, N, D), but those that a `mask` hides, which is
        added to their weights before the softmax (B, 1, 1, N)."""
        q = self._split(self.query(asking))  # (B, heads, n, head size)
        k, v = self._split(self.key(x)), self._split(self.value(x))  # (B, heads, N, head size)
        gathered = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.out(gathered.transpose(1, 2).flatten(2))  # (B, n, D)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """One transformer layer, its norms before (`pre`) or after (`post`) the residual sums."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.pre = spec.norm == "pre"
        self.norm1 = nn.LayerNorm(spec.dim, eps=spec.norm_eps)
        self.attention = Attention(spec)
        self.norm2 = nn.LayerNorm(spec.dim, eps=spec.norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(spec.dim, spec.mlp_dim), nn.GELU(approximate=spec.gelu), nn.Linear(spec.mlp_dim, spec.dim)
        )

    def forward(self, x: Tensor, kept: int | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) to (B, N, D), or only to the first `kept` tokens of it; `mask` as of `Attention`."""
        if self.pre:
            y = self.norm1(x)
            x = first(x, kept) + self.attention(y, first(y, kept), mask)
            return x + self.mlp(self.norm2(x))
        asking = first(x, kept)
        x = self.norm1(asking + self.attention(x, asking, mask))
        return self.norm2(x + self.mlp(x))


def first(x: Tensor, kept: int | None) -> Tensor:
    return x if kept is None else x[:, :kept]


class Musiq(nn.Module):
    """MUSIQ: uint8 RGB (B, H, W, 3) to the head's outputs, float (B, outputs).

    The outputs are the head's own: a raw score, or logits over the ratings 1..K. `predict` turns them into scores in the
    units of the training target.

    Args:
        spec: What the model is; H and W are `spec.height` and `spec.width`, or any where those are None. Weights begin at
            random.

    References:
        Ke, Wang, Wang, Milanfar, Yang, "MUSIQ: Multi-scale Image Quality Transformer", ICCV 2021, arXiv 2108.05997.
    """

    ratings: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.pyramid: Pyramid | AnySizePyramid = AnySizePyramid(spec) if spec.any_size else Pyramid(spec)
        trunk = TimmTrunk if spec.timm_name else {"resnet50": ResNetTrunk, "patch": PatchTrunk}[spec.trunk]
        self.trunk: nn.Module = trunk(spec)
        self.embed: Embeddings | AnySizeEmbeddings = AnySizeEmbeddings(spec) if spec.any_size else Embeddings(spec)
        self.layers = nn.ModuleList(Layer(spec) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.dim, eps=spec.norm_eps) if spec.norm == "pre" else nn.Identity()
        if spec.head_hidden:
            self.head: nn.Module = nn.Sequential(
                nn.Linear(spec.dim, spec.head_hidden, bias=False),
                nn.GELU(),
                nn.Linear(spec.head_hidden, spec.outputs, bias=False),
            )
        else:
            self.head = nn.Linear(spec.dim, spec.outputs)
        self.register_buffer("ratings", torch.arange(1.0, spec.outputs + 1), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for parameter in self.embed.parameters():
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        return self.rate(self.pyramid(image))

    def rate(self, scales: list[Tensor]) -> Tensor:
        """The head's outputs (B, outputs) for the normalised images of a pyramid, each float (B, 3, h, w)."""
        # The pyramid stays in fp32 when the rest is put into half precision.
        scales = [scale.to(self.embed.class_token.dtype) for scale in scales]
        return self.rate_tokens(self.embed(self.trunk(scales), scales))

    def rate_tokens(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The head's outputs (B, outputs) for tokens (B, N, D), the class token first; `mask` as of `Attention`."""
        for layer in self.layers[:-1]:
            x = layer(x, mask=mask)
        x = self.layers[-1](x, kept=1, mask=mask)  # the head reads the class token alone
        outputs: Tensor = self.head(self.norm(x)[:, 0])
        return outputs

    def predict(self, image: Tensor) -> tuple[Tensor, ...]:
        """Score images.

        Args:
            image: uint8 RGB (B, H, W, 3).

        Returns:
            Scores (B,) in the units of `spec.target`, and for K > 1 outputs also the shares of the ratings 1..K,
            (B, K), which sum to 1; in float32 even where the model is in half precision.
        """
        return self.read(self(image))

    def read(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Turn the head's outputs (B, outputs) into scores (B,), and shares (B, K) where the head has K > 1."""
        outputs = outputs.to(self.pyramid.gain.dtype)
        shift, scale = self.spec.score_shift, self.spec.score_scale
        if self.spec.outputs == 1:
            return (outputs[:, 0] * scale + shift,)
        shares = outputs.softmax(dim=1)
        return (shares * self.ratings).sum(dim=1) * scale + shift, shares
