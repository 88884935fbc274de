"""What differs where images may have any size: pyramid and positions are made from the image's own shape, in the graph.

Sizes are integers that `torch.export` and tracing can follow, tensors are small, and nothing branches on either. Shapes as
in network.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musiq.pyramid import CUBIC_A, GAUSSIAN_SIGMA
from musiq.spec import PATCH, Scale, Spec

Size = Any
"""An int; symbolic where a graph is exported, a tensor of one where it is traced."""

TAPS = {"gaussian": 3, "cubic": 4}
"""Inputs that one output of a resize reads at most."""


class AnySizePyramid(nn.Module):
    """`network.Pyramid` for images of any size.

    For the patch trunk each scale comes padded to whole patches, as TensorFlow's SAME: zeros, the smaller half before. The
    resize matrices have rows of zeros there, so that a resize and its padding are one product.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.names = [scale.name for scale in spec.scales]
        self.padded = spec.trunk == "patch"
        mean, std = torch.tensor(spec.mean, dtype=torch.float64), torch.tensor(spec.std, dtype=torch.float64)
        self.register_buffer("gain", (1 / (255 * std))[:, None, None].float(), persistent=False)
        self.register_buffer("shift", (-mean / std)[:, None, None].float(), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        native = image.to(self.gain.dtype).permute(0, 3, 1, 2) * self.gain + self.shift  # (B, 3, H, W)
        return [
            self._padded(native) if scale.length is None else self._resized(native, scale) for scale in self.spec.scales
        ]

    def _padded(self, native: Tensor) -> Tensor:
        if not self.padded:
            return native
        height, width = native.shape[2:]
        down, across = patches_along(height) * PATCH - height, patches_along(width) * PATCH - width
        return F.pad(native, (across // 2, across - across // 2, down // 2, down - down // 2))

    def _resized(self, native: Tensor, scale: Scale) -> Tensor:
        height, width = native.shape[2:]
        rows, columns = scaled_size(self.spec, scale, height, width)
        down = self._down(native, height, rows)
        padded = patches_along(columns) * PATCH
        right = self._matrix(*self._taps(width, columns, padded), width, padded)
        if self.padded:
            return down @ right
        return down[:, :, :rows] @ right[:, :columns]

    def _down(self, native: Tensor, height: Size, rows: Size) -> Tensor:
        """(B, 3, H, W) to (B, 3, R * 32, W): each 32 rows of the result read a few neighbouring ones, and one matrix for
        all would be nearly all zeros."""
        blocks = patches_along(rows)
        index, weight = self._taps(height, rows, blocks * PATCH)
        span = (PATCH - 1) * height // rows + 6  # the rows that 32 outputs read, rounded up, and the taps at both ends
        start = index.view(blocks, -1).amin(1)  # (R,)
        local = index - start.repeat_interleave(PATCH)[:, None]
        left = self._matrix(local, weight, span, blocks * PATCH, transposed=True).view(blocks, PATCH, span)
        read = (start[:, None] + _count(span, index)).clamp(max=height - 1)  # (R, span); what repeats has no weight
        bands = native.index_select(2, read.flatten()).unflatten(2, (blocks, span))
        return (left @ bands).flatten(2, 3)

    def _taps(self, inputs: Size, outputs: Size, padded: Size) -> tuple[Tensor, Tensor]:
        """Which inputs each output reads and how much of each, both (padded, taps); nothing for padding."""
        place = _count(padded, self.gain)
        place = place - (padded - outputs) // 2 if self.padded else place
        inside = (place >= 0) & (place < outputs)
        place = place.clamp(0, outputs - 1)
        index, weight = (_gaussian if self.spec.kernel == "gaussian" else _cubic)(place, inputs, outputs)
        weight = weight / weight.sum(1, keepdim=True) * inside[:, None]
        return index.clamp(0, inputs - 1), weight.to(self.gain.dtype)

    def _matrix(self, index: Tensor, weight: Tensor, inputs: Size, outputs: Size, transposed: bool = False) -> Tensor:
        """The resize as a matrix (inputs, outputs), or `transposed`."""
        output = _count(outputs, index)[:, None]
        flat = output * inputs + index if transposed else index * outputs + output
        return (
            weight.new_zeros(inputs * outputs)
            .scatter_add(0, flat.flatten(), weight.flatten())
            .unflatten(0, (outputs, inputs) if transposed else (inputs, outputs))
        )


def _gaussian(place: Tensor, inputs: Size, outputs: Size) -> tuple[Tensor, Tensor]:
    """Taps of TensorFlow's GAUSSIAN, before weights are made to sum to 1.

    The kernel jumps from 0.011 to 0 at its radius of 1.5, and TensorFlow's float32 rounding of the centre c decides what
    counts: j + 0.5 lies within for floor(c) - 1 <= j < c + 1. Said by floor and ceil, no compiler can round it otherwise.
    """
    n, m = _float(inputs, place), _float(outputs, place)
    centre = (place.float() + 0.5) * (1 / (m / n))
    floor, ceil = centre.floor(), centre.ceil()
    index = floor[:, None].long() + torch.arange(-1, 2, device=place.device)
    distance = index + 0.5 - centre[:, None]
    weight = torch.exp(distance**2 * (-0.5 / GAUSSIAN_SIGMA**2))
    counts = torch.stack([torch.ones_like(floor), torch.ones_like(floor), ceil - floor], 1)
    return index, weight * counts * ((index >= 0) & (index < inputs))


def _cubic(place: Tensor, inputs: Size, outputs: Size) -> tuple[Tensor, Tensor]:
    """Taps of the cubic kernel; the place between two inputs is exact, in integers."""
    numerator = (2 * place + 1) * inputs - outputs
    floor = torch.floor_divide(numerator, 2 * outputs)
    part = (numerator - floor * 2 * outputs).float()[:, None] / (2 * _float(outputs, place))
    a = CUBIC_A
    outer, inner, inner2, outer2 = part + 1, part, 1 - part, 2 - part
    weight = torch.cat(
        [
            ((a * outer - 5 * a) * outer + 8 * a) * outer - 4 * a,
            ((a + 2) * inner - (a + 3)) * inner * inner + 1,
            ((a + 2) * inner2 - (a + 3)) * inner2 * inner2 + 1,
            ((a * outer2 - 5 * a) * outer2 + 8 * a) * outer2 - 4 * a,
        ],
        1,
    )
    return floor[:, None] + torch.arange(-1, 3, device=place.device), weight


def scaled_size(spec: Spec, scale: Scale, height: Size, width: Size) -> tuple[Size, Size]:
    """`Spec.size` of a scale with a length, in arithmetic that a graph can hold."""
    assert scale.length is not None
    side = width if scale.side == "width" else larger(height, width)
    if spec.rounding == "nearest-float32":
        return _nearest_float32(height, scale.length, side), _nearest_float32(width, scale.length, side)
    return _nearest(height, scale.length, side), _nearest(width, scale.length, side)


def _nearest(pixels: Size, length: int, side: Size) -> Size:
    """round(pixels * length / side), half to even, at least 1."""
    doubled = 2 * pixels * length + side
    rounded = doubled // (2 * side)
    is_tie = 1 - _smaller(doubled % (2 * side), 1)
    return larger(rounded - is_tie * (rounded % 2), 1)


def larger(size: Size, other: Size) -> Size:
    """The larger of two sizes, as integers of any kind."""
    return size.clamp(min=other) if isinstance(size, Tensor) else torch.sym_max(size, other)


def _smaller(size: Size, other: Size) -> Size:
    return size.clamp(max=other) if isinstance(size, Tensor) else torch.sym_min(size, other)


def _nearest_float32(pixels: Size, length: int, side: Size) -> Size:
    """The same, with the ratio and its product in float32."""
    like = torch.zeros(())
    return _opaque((_float(pixels, like) * (length / _float(side, like))).round().clamp(min=1).long(), length)


def patches_along(pixels: Size) -> Size:
    """Rows or columns of patches that cover so many pixels."""
    if torch.compiler.is_exporting():
        return _opaque(torch.ones((), dtype=torch.int64) * ((pixels + PATCH - 1) // PATCH), 65536 // PATCH)
    return (pixels + PATCH - 1) // PATCH


def _opaque(size: Tensor, most: int) -> Size:
    """A size of 1 to `most` that an export knows nothing else of: of one that it can compute it proves, from the example
    that it is given, what holds for large images alone."""
    if is_tracing():
        return size
    found = size.item()
    torch._check(found >= 1)
    torch._check(found <= most)
    return found


def is_tracing() -> bool:
    """Whether a TorchScript is being made, where sizes are tensors."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def _count(n: Size, like: Tensor) -> Tensor:
    return torch.arange(n, device=like.device)


def _float(n: Size, like: Tensor) -> Tensor:
    """An integer as a float32 tensor, so that all arithmetic with it is in float32."""
    return torch.ones((), device=like.device) * n


class AnySizeEmbeddings(nn.Module):
    """`network.Embeddings` for grids of any size, with the same weights."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.position = nn.Parameter(torch.empty(spec.position_grid**2, spec.dim))
        self.scale = nn.Parameter(torch.empty(spec.scale_embeddings, spec.dim))
        self.class_token = nn.Parameter(torch.empty(spec.dim))

    def forward(self, x: Tensor, scales: list[Tensor]) -> Tensor:
        tables = []
        for scale, pixels in zip(self.spec.scales, scales, strict=True):
            cells = self._cells(pixels.shape[2]), self._cells(pixels.shape[3])
            places = (cells[0][:, None] * self.spec.position_grid + cells[1]).flatten()  # (R * C,)
            tables.append(self.position[places] + self.scale[scale.embedding])
        table = torch.cat(tables)
        if not is_tracing():
            torch._check(x.shape[1] == table.shape[0])
        return torch.cat([self.class_token.expand(x.shape[0], 1, -1), x + table], dim=1)

    def _cells(self, pixels: Size) -> Tensor:
        """For each row or column of patches in so many pixels, its row or column in the coarse common grid."""
        places = pixels // PATCH if self.spec.trunk == "patch" else patches_along(pixels)
        grid, place = self.spec.position_grid, _count(places, self.position)
        if self.spec.position_rule == "float32":
            return (place.float() * (grid / _float(places, place))).floor().long()
        return torch.floor_divide(place * grid, places)
