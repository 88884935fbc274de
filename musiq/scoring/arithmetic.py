"""What a model costs in arithmetic, and how much of it smaller images would save."""

from __future__ import annotations

from functools import lru_cache

from musiq.images.fit import Resize
from musiq.scoring.row import Row
from musiq.spec import PATCH, USUAL_SIZE, Spec

RESNET50_GFLOP = 2 * 4.089
"""torchvision's ResNet-50 for an image of 224x224 (its documentation gives 4.09 GFLOPS, counting a product and its sum as
one); the convolutions grow with the pixels."""

TIMM_GFLOP = 2 * 0.407
"""tf_efficientnet_lite0's, which stands for every trunk of timm's: scoring knows no more of them than their names."""

WORTH_TELLING = 2
"""How many times as fast images of the usual size must be to be worth a line."""


def gflop(spec: Spec) -> float:
    """Billions of products and sums for one image: matrix products, convolutions and attention, from the formulas of
    the architecture. Norms, activations and the pyramid are left out."""
    tokens = spec.tokens
    if spec.trunk != "patch":
        pixels = sum(rows * columns for rows, columns in map(spec.kept_size, spec.scales))
        trunk = (TIMM_GFLOP if spec.timm_name else RESNET50_GFLOP) * pixels / 224**2
        width = 512 if spec.timm_name else 2048
    else:
        trunk, width = (tokens - 1) * _patch_gflop(spec), 0  # its dense layer is counted with the patch
    projection = 2 * (tokens - 1) * width * spec.dim / 1e9
    inner = spec.heads * spec.head_dim
    layer = 2 * tokens * (4 * spec.dim * inner + 2 * spec.dim * spec.mlp_dim + 2 * tokens * inner) / 1e9
    return trunk + projection + spec.layers * layer


def _patch_gflop(spec: Spec) -> float:
    """One patch of 32x32: 7x7 convolution to 16x16, pool to 8x8, one bottleneck with its shortcut, the dense layer."""
    narrow, wide = spec.trunk_channels, 4 * spec.trunk_channels
    stem = 49 * 3 * narrow * (PATCH // 2) ** 2
    bottleneck = (narrow * narrow + 9 * narrow * narrow + 2 * narrow * wide) * (PATCH // 4) ** 2
    dense = wide * (PATCH // 4) ** 2 * spec.dim
    return 2 * (stem + bottleneck + dense) / 1e9


class Savings:
    """Adds up what the images of a run cost a model of any size at their own size, and would cost at a usual one."""

    def __init__(self, spec: Spec, resize: str) -> None:
        """Begin with no image.

        Args:
            spec: Of the model.
            resize: The policy in force.
        """
        self._counts = spec.any_size and resize == "native"
        self._usual = Resize("longer", max(USUAL_SIZE))
        self._gflop = lru_cache(4096)(lambda height, width: gflop(spec.at(height, width)))
        self._native = self._resized = 0.0

    def add(self, row: Row) -> None:
        if self._counts and row.size:
            width, height = map(int, row.size.split("x"))
            self._native += self._gflop(height, width) * (row.frames or 1)
            self._resized += self._gflop(*self._usual.size(height, width)) * (row.frames or 1)

    def told(self) -> str:
        """A line that names the policy which would save much, "" where none would."""
        times = self._native / self._resized if self._resized else 1.0
        if times < WORTH_TELLING:
            return ""
        return (
            f"These images are large: with --resize {self._usual} the model would be about {times:.0f} times as fast, and "
            "give other scores."
        )
