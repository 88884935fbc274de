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
from musiq.spec import PATCH, Spec

Size = Any
"""An int; symbolic where a graph is exported, a tensor of one where it is traced."""


class AnySizePyramid(nn.Module):
    """`network.Pyramid` for images of any size.

    Where the trunk pads, each scale comes padded to whole patches, as TensorFlow's SAME: zeros, the smaller half before.
    The resize matrices have rows of zeros there, so that a resize and its padding are one product.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.names = [scale.name for scale in spec.scales]
        self.padded = spec.pads_scales
        for name, value in zip(("gain", "shift"), normalisation(spec), strict=True):
            self.register_buffer(name, value, persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        native = image.to(self.gain.dtype).permute(0, 3, 1, 2) * self.gain + self.shift  # (B, 3, H, W)
        height, width = native.shape[2:]
        sizes = scaled_sizes(self.spec, height, width)
        steps = self._steps((height, width), sizes)
        resized = [self._resized(native, *size, *step) for size, step in zip(sizes, steps, strict=True)]
        return [self._padded(native) if scale.length is None else resized.pop(0) for scale in self.spec.scales]

    def _steps(self, size: tuple[Size, Size], sizes: list[tuple[Size, Size]]) -> list[tuple[Tensor, Tensor]]:
        """For each resized scale, how far the centres of its rows are apart, and those of its columns, in inputs: as
        TensorFlow rounds it."""
        if not sizes:
            return []
        kept = torch.stack([_float(pixels, self.gain) for scaled in sizes for pixels in scaled])
        had = torch.stack([_float(pixels, self.gain) for pixels in size] * len(sizes))
        steps = (1 / _ratio(kept, had)).unbind()
        return list(zip(steps[::2], steps[1::2], strict=True))

    def _padded(self, native: Tensor) -> Tensor:
        if not self.padded:
            return native
        height, width = native.shape[2:]
        down, across = patches_along(height) * PATCH - height, patches_along(width) * PATCH - width
        return F.pad(native, (across // 2, across - across // 2, down // 2, down - down // 2))

    def _resized(self, native: Tensor, rows: Size, columns: Size, row_step: Tensor, column_step: Tensor) -> Tensor:
        height, width = native.shape[2:]
        down = self._down(native, height, rows, row_step)
        padded = patches_along(columns) * PATCH
        right = self._matrix(*self._taps(width, columns, padded, column_step), width, padded)
        if self.padded:
            return down @ right
        return down[:, :, :rows] @ right[:, :columns]

    def _down(self, native: Tensor, height: Size, rows: Size, step: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, R * 32, W): each 32 rows of the result read a few neighbouring ones, and one matrix for
        all would be nearly all zeros."""
        blocks = patches_along(rows)
        index, weight = self._taps(height, rows, blocks * PATCH, step)
        span = (PATCH - 1) * height // rows + 6  # the rows that 32 outputs read, rounded up, and the taps at both ends
        start = index.view(blocks, -1).amin(1)  # (R,)
        local = index - start.repeat_interleave(PATCH)[:, None]
        left = self._matrix(local, weight, span, blocks * PATCH, transposed=True).view(blocks, PATCH, span)
        read = (start[:, None] + _count(span, index)).clamp(max=height - 1)  # (R, span); what repeats has no weight
        bands = native.index_select(2, read.flatten()).unflatten(2, (blocks, span))
        return (left @ bands).flatten(2, 3)

    def _taps(self, inputs: Size, outputs: Size, padded: Size, step: Tensor) -> tuple[Tensor, Tensor]:
        """Which inputs each output reads and how much of each, both (padded, taps); nothing for padding."""
        place = _count(padded, self.gain)
        place = place - (padded - outputs) // 2 if self.padded else place
        inside = (place >= 0) & (place < outputs)
        place = place.clamp(0, outputs - 1)
        if self.spec.kernel == "gaussian":
            index, weight = _gaussian(place, inputs, outputs, step)
        else:
            index, weight = _cubic(place, inputs, outputs)
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


def normalisation(spec: Spec) -> tuple[Tensor, Tensor]:
    """What pixel values are multiplied by, and what is then added, each float32 (3, 1, 1)."""
    mean, std = torch.tensor(spec.mean, dtype=torch.float64), torch.tensor(spec.std, dtype=torch.float64)
    return (1 / (255 * std))[:, None, None].float(), (-mean / std)[:, None, None].float()


def _gaussian(place: Tensor, inputs: Size, outputs: Size, step: Tensor) -> tuple[Tensor, Tensor]:
    """Taps of TensorFlow's GAUSSIAN, before weights are made to sum to 1.

    An output at the centre c reads the inputs j with |j + 0.5 - c| < 1.5: floor(c) - 1 to floor(c) + 1, and not the last
    where c is whole. The kernel is 0.011 there, and TensorFlow's float32 decides whether c is whole, as so many are at
    ratios such as 4/3: so integers say where c is, and c itself, as TensorFlow rounds it, only on which side of whole.
    """
    margin = inputs * outputs // 2**21  # in 1 / (2 * outputs): so far from whole c may be rounded to whole
    doubled = (2 * place + 1) * inputs
    whole = torch.floor_divide(doubled + margin, 2 * outputs)
    may_be_whole = doubled + margin - whole * 2 * outputs <= 2 * margin
    centre = (place.float() + 0.5) * step
    first = whole - (may_be_whole & (centre < whole.float())).long()
    index = first[:, None] + torch.arange(-1, 2, device=place.device)
    part = (doubled - first * 2 * outputs).float() / (2 * _float(outputs, place))  # c - first
    distance = torch.arange(-1, 2, device=place.device) + 0.5 - part[:, None]
    weight = torch.exp(distance**2 * (-0.5 / GAUSSIAN_SIGMA**2))
    is_whole = (may_be_whole & (centre == whole.float()))[:, None]
    is_last = torch.arange(3, device=place.device) == 2
    return index, weight * ((index >= 0) & (index < inputs) & ~(is_whole & is_last))


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


def scaled_sizes(spec: Spec, height: Size, width: Size) -> list[tuple[Size, Size]]:
    """`Spec.size` of each scale with a length, in arithmetic that a graph can hold."""
    scales = [scale for scale in spec.scales if scale.length is not None]
    sides = [width if scale.side == "width" else larger(height, width) for scale in scales]
    if spec.rounding != "nearest-float32" or not scales:
        return [
            (_nearest(height, scale.length, side), _nearest(width, scale.length, side))
            for scale, side in zip(scales, sides, strict=True)
        ]
    like = torch.zeros(())
    lengths = torch.tensor([float(scale.length or 0) for scale in scales])
    ratios = _ratio(lengths, torch.stack([_float(side, like) for side in sides])).unbind()
    return [
        (_nearest_float32(height, scale.length, side, ratio), _nearest_float32(width, scale.length, side, ratio))
        for scale, side, ratio in zip(scales, sides, ratios, strict=True)
    ]


def _nearest(pixels: Size, length: Any, side: Size) -> Size:
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


def _nearest_float32(pixels: Size, length: Any, side: Size, ratio: Tensor) -> Size:
    """The same as TensorFlow rounds it: the ratio and the product in float32, which matter near halves alone."""
    margin = side // 2**12  # in 1 / (2 * side): so far from a half the product may be rounded to it
    doubled = 2 * pixels * length + side + margin
    above = torch.ones((), dtype=torch.int64) * (doubled // (2 * side))
    may_be_half = torch.ones((), dtype=torch.int64) * (doubled % (2 * side)) <= 2 * margin
    product = _float(pixels, above) * ratio
    is_odd = above % 2 == 1
    is_less = (product < above.float() - 0.5) | ((product == above.float() - 0.5) & is_odd)
    return _opaque((above - (may_be_half & is_less).long()).clamp(min=1), length)


def _ratio(m: Tensor, n: Tensor) -> Tensor:
    """m / n, whole numbers below 2^16 in float32, rounded to nearest.

    Compilers make m * (1 / n) of a division, which is often rounded otherwise. So that is corrected: by what it leaves of
    m, found exactly in pieces of 8 bits, whose products with n have at most 24.
    """
    inverse = 1 / n
    guess = m * inverse
    left, rest = guess, m
    for bits in range(0, 48, 8):
        piece = (left * 2.0**bits).floor() * 2.0**-bits
        left, rest = left - piece, rest - piece * n
    return guess + rest * inverse


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
        sides = [pixels for scale in scales for pixels in scale.shape[2:]]
        cells = self._cells([pixels // PATCH if self.spec.pads_scales else patches_along(pixels) for pixels in sides])
        tables = []
        for scale, rows, columns in zip(self.spec.scales, cells[::2], cells[1::2], strict=True):
            places = (rows[:, None] * self.spec.position_grid + columns).flatten()  # (R * C,)
            tables.append(self.position[places] + self.scale[scale.embedding])
        table = torch.cat(tables)
        if not is_tracing():
            torch._check(x.shape[1] == table.shape[0])
        return torch.cat([self.class_token.expand(x.shape[0], 1, -1), x + table], dim=1)

    def _cells(self, sides: list[Size]) -> list[Tensor]:
        """For each row or column of grids with so many, its row or column in the coarse common grid."""
        grid = self.spec.position_grid
        places = [_count(side, self.position) for side in sides]
        cells = [torch.floor_divide(place * grid, side) for place, side in zip(places, sides, strict=True)]
        if self.spec.position_rule != "float32":
            return cells
        # In float32 less may be left where the exact quotient is whole.
        counts = torch.stack([_float(side, self.position) for side in sides])
        steps = _ratio(torch.full_like(counts, float(grid)), counts).unbind()
        return [
            cell - ((cell * side == place * grid) & (place.float() * step < cell.float())).long()
            for cell, place, side, step in zip(cells, places, sides, steps, strict=True)
        ]
