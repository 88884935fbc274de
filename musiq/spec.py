"""`Spec`: the one record of what a model is and what its score means.

Written by `train.py` or by a checkpoint importer, saved in the checkpoint, copied into every artifact, and read back by
`musiq.load`. Nothing else in the project knows a scale length, a kernel, a mean or a score range.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from numbers import Integral
from typing import Any

import numpy as np

from musiq.errors import MusiqError

PATCH = 32
"""Pixels of one token's side: a MUSIQ patch (arXiv 2108.05997, section 4.1) and ResNet-50's total stride alike."""

USUAL_SIZE = 768, 1024
"""Height and width of KonIQ-10k's images (arXiv 1910.06180), which a model of one size is for unless told otherwise."""


@dataclass(frozen=True)
class Scale:
    """One image of the pyramid.

    Attributes:
        length: Pixels of `side` after the resize; None for the image as it is.
        side: Which side `length` measures: "longer" or "width".
        rows: Rows kept from the top after the resize; None for all.
        embedding: The row of the scale embedding that its tokens get, from 0.
    """

    length: int | None = None
    side: str = "longer"
    rows: int | None = None
    embedding: int = 0

    @property
    def name(self) -> str:
        """Its input in artifacts that take the pyramid: "native", "scale_384", ..."""
        return "native" if self.length is None else f"scale_{self.length}"

    @property
    def is_sane(self) -> bool:
        """Whether its sizes are whole numbers that an image can have, and its side one that there is."""
        sizes = [size for size in (self.length, self.rows) if size is not None]
        return (
            self.side in ("longer", "width")
            and all(_is_whole(size) and 1 <= size <= 65535 for size in sizes)
            and _is_whole(self.embedding)
            and self.embedding >= 0
        )


@dataclass(frozen=True)
class Spec:
    """Everything needed to rebuild a model besides its weights, and to read its score.

    Images are uint8 RGB (N, height, width, 3), of one size or, where those are None, of any. The score is `score_shift +
    score_scale * head` for one output, and the same of the mean rating (1..outputs) for a distribution.

    Attributes:
        preset: The name in `musiq.presets.PRESETS` that it was made from.
        trunk: "resnet50" (torchvision's, over each whole scale), "patch" (the paper's, over each 32x32 patch) or
            "timm:NAME" (a feature extractor of timm's, over each whole scale padded to whole patches).
        scales: The images of the pyramid, in the order of their tokens.
        kernel: Of the pyramid's resizes: "cubic" or "gaussian", see `musiq.pyramid`.
        height: Pixels of an image's height; None, as the width, for any.
        width: Pixels of an image's width; None, as the height, for any.
        resize: What is done to an image before the model sees it, as `musiq.images.fit` names it; "" for the usual:
            "native" at any size, "cover" at a fixed one.
        rounding: Of a resized side: "nearest", "nearest-float32" (the ratio in float32, as TensorFlow) or "floor".
        mean: Per channel, subtracted from pixel values in [0, 1].
        std: Per channel, what the difference is divided by.
        trunk_channels: Of the patch trunk's first convolution; its last one has four times as many.
        trunk_groups: Of the patch trunk's group norms.
        trunk_strides: Of the feature maps that a timm trunk's tokens are made of, ascending; finer ones are averaged down
            to 32.
        unbiased_std: Whether the patch trunk's standardised convolutions divide by n - 1 instead of n.
        dim: Width of the transformer.
        layers: Layers of the transformer.
        heads: Attention heads of each layer.
        head_dim: Width of each head.
        mlp_dim: Width of each layer's hidden layer.
        norm: "pre" (norms before each block, and a final one) or "post" (after each residual sum, none at the end).
        norm_eps: Added to variances in layer norms.
        gelu: torch's name for the kind of GELU: "none" (exact) or "tanh" (approximation).
        position_grid: Rows and columns of the grid that positions are hashed to.
        position_rule: Row r of R becomes r * grid // R ("integer"), int(r / R * grid) ("float64"), or the floor of
            r * (grid / R) in float32 ("float32", TensorFlow's and PyTorch's nearest neighbour).
        scale_embeddings: Rows of the scale embedding.
        head_hidden: Width of the head's hidden layer, without biases; 0 for one linear layer with bias.
        outputs: 1 for a score, K > 1 for shares of the ratings 1..K.
        score_shift: In units of the score.
        score_scale: Units of the score per unit of the head's output, or per rating.
        score_range: (worst, best) as the training target defines it, None if unknown; a model can leave it slightly.
        target: What the score was trained to predict, as every figure names it.
        source: Where the weights come from.

    Raises:
        MusiqError: A field has a value of another type or out of its range, or the arithmetic knows one size alone.
    """

    preset: str
    trunk: str
    scales: tuple[Scale, ...]
    kernel: str
    height: int | None = USUAL_SIZE[0]
    width: int | None = USUAL_SIZE[1]
    rounding: str = "nearest"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    trunk_channels: int = 64
    trunk_groups: int = 32
    unbiased_std: bool = False
    dim: int = 384
    layers: int = 14
    heads: int = 6
    head_dim: int = 64
    mlp_dim: int = 1152
    norm: str = "pre"
    norm_eps: float = 1e-6
    gelu: str = "none"
    position_grid: int = 10
    position_rule: str = "integer"
    scale_embeddings: int = 3
    head_hidden: int = 0
    outputs: int = 1
    score_shift: float = 0.0
    score_scale: float = 1.0
    score_range: tuple[float, float] | None = None
    resize: str = ""
    target: str = "unknown"
    source: str = ""
    trunk_strides: tuple[int, ...] = (PATCH,)

    def __post_init__(self) -> None:
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed and not (field == "trunk" and self.timm_name):
                raise MusiqError(f"Spec.{field} is {getattr(self, field)!r}; expected one of {', '.join(allowed)}.")
        self._check_types()
        if max(scale.embedding for scale in self.scales) >= self.scale_embeddings:
            raise MusiqError(f"A scale names an embedding row beyond the {self.scale_embeddings} there are.")
        self._check_sizes()

    def _check_types(self) -> None:
        for field, kind in _KINDS.items():
            value = getattr(self, field)
            if not _is_a(kind, value):
                raise MusiqError(f"Spec.{field} is {_shown(value)}; expected {kind}.")

    def _check_sizes(self) -> None:
        if (self.height is None) != (self.width is None):
            missing = SIDES[0] if self.height is None else SIDES[1]
            raise MusiqError(f"Spec.{missing} is None; expected a whole number like the other side, or none of both.")
        if self.any_size and self.position_rule == "float64":
            raise MusiqError(
                f"{self.preset} has no form for images of any size: its authors' arithmetic knows one size. Give "
                "--size 1024x768, or take another preset."
            )
        for field, (least, most) in RANGES.items():
            if field in SIDES and self.any_size:
                continue
            if not least <= getattr(self, field) <= most:
                value = _shown(getattr(self, field))
                raise MusiqError(f"Spec.{field} is {value}; expected a whole number of {least} to {most}.")
        if self.trunk_strides != (PATCH,) and not self.timm_name:
            raise MusiqError(
                f"Spec.trunk_strides is {self.trunk_strides}; expected ({PATCH},) for {self.trunk}, as of all but timm's."
            )
        if self.trunk == "patch" and self.trunk_channels % self.trunk_groups:
            raise MusiqError(
                f"Spec.trunk_groups is {self.trunk_groups}; expected a divisor of the {self.trunk_channels} trunk_channels."
            )
        weights = self.layers * self.dim * (4 * self.heads * self.head_dim + 2 * self.mlp_dim)
        if weights > MOST_WEIGHTS:
            raise MusiqError(
                f"The Spec's dim, layers, heads, head_dim and mlp_dim make a transformer of {weights:.1e} weights; "
                f"expected at most {MOST_WEIGHTS:.0e}."
            )

    @property
    def timm_name(self) -> str:
        """Of the timm trunk: "resnet18"; "" for another."""
        found = re.fullmatch(r"timm:([\w.-]{1,100})", self.trunk) if isinstance(self.trunk, str) else None
        return found[1] if found else ""

    @property
    def pads_scales(self) -> bool:
        """Whether the trunk sees each scale padded to whole patches, as TensorFlow's SAME: all but torchvision's."""
        return self.trunk != "resnet50"

    @property
    def any_size(self) -> bool:
        """Whether images may have any size; all that counts pixels or tokens is asked of `at(height, width)` then."""
        return self.height is None

    @property
    def fixed_size(self) -> tuple[int, int]:
        """(height, width) of every image. Raises MusiqError where they may have any."""
        if self.height is None or self.width is None:
            raise MusiqError("This model takes images of any size: ask its Spec at(height, width).")
        return self.height, self.width

    @property
    def size_name(self) -> str:
        """ "1024x768", width first, or "any"."""
        return "any" if self.any_size else f"{self.width}x{self.height}"

    def size(self, scale: Scale) -> tuple[int, int]:
        """(rows, columns) in pixels of the resized image, before `scale.rows` cuts it."""
        height, width = self.fixed_size
        if scale.length is None:
            return height, width
        side = width if scale.side == "width" else max(height, width)
        return self._resized(height, scale.length, side), self._resized(width, scale.length, side)

    def _resized(self, pixels: int, length: int, side: int) -> int:
        if self.rounding == "floor":
            return max(1, pixels * length // side)
        if self.rounding == "nearest-float32":
            return max(1, int(np.round(np.float32(pixels) * (np.float32(length) / np.float32(side)))))
        return max(1, round(pixels * length / side))

    def kept_size(self, scale: Scale) -> tuple[int, int]:
        """(rows, columns) in pixels of the image that the trunk sees."""
        rows, columns = self.size(scale)
        return min(rows, scale.rows or rows), columns

    def grid(self, scale: Scale) -> tuple[int, int]:
        """(rows, columns) in tokens of one scale: both trunks round up to whole patches."""
        rows, columns = self.kept_size(scale)
        return ceil(rows / PATCH), ceil(columns / PATCH)

    @property
    def tokens(self) -> int:
        """Tokens in the transformer, the class token included."""
        return 1 + sum(rows * columns for rows, columns in map(self.grid, self.scales))

    def at(self, height: int | None = None, width: int | None = None) -> Spec:
        """The same model for images of another fixed size; None for the side as it is, and without both for the same."""
        if self.any_size and (height or width):
            return dataclasses.replace(self, height=height or USUAL_SIZE[0], width=width or USUAL_SIZE[1])
        return dataclasses.replace(self, height=height or self.height, width=width or self.width)

    def at_any_size(self) -> Spec:
        """The same model for images of any size. Raises MusiqError where its arithmetic knows one alone."""
        return dataclasses.replace(self, height=None, width=None)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The Spec of a checkpoint's, an artifact's or a record's JSON.

        Raises:
            MusiqError: The text is no Spec, or one with fields that this version does not know.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            if not isinstance(values, dict):
                raise TypeError(f"{_shown(values)} is no JSON object")
            if values.get("fit") == "cover":  # written when the one way to make images fit had a field
                del values["fit"]
            values["scales"] = tuple(Scale(**scale) for scale in values["scales"])
            for field in ("mean", "std", "score_range", "trunk_strides"):
                if isinstance(values.get(field), list):
                    values[field] = tuple(values[field])
            return cls(**values)
        except (TypeError, KeyError, ValueError, RecursionError) as problem:
            raise MusiqError(
                f"The Spec in this file cannot be read ({problem}). It may come from a newer version of this package: "
                "upgrade it, or export the model again."
            ) from problem


CHOICES = {
    "trunk": ("resnet50", "patch", "timm:NAME"),
    "kernel": ("cubic", "gaussian"),
    "rounding": ("nearest", "nearest-float32", "floor"),
    "norm": ("pre", "post"),
    "gelu": ("none", "tanh"),
    "position_rule": ("integer", "float64", "float32"),
}

SIDES = ("height", "width")

RANGES = {
    **dict.fromkeys(SIDES, (1, 65535)),
    "trunk_channels": (1, 4096),
    "trunk_groups": (1, 4096),
    "dim": (1, 65536),
    "layers": (1, 1000),
    "heads": (1, 1000),
    "head_dim": (1, 65536),
    "mlp_dim": (1, 65536),
    "position_grid": (1, 1000),
    "scale_embeddings": (1, 1000),
    "head_hidden": (0, 65536),
    "outputs": (1, 1000),
}
"""The least and the largest value of each field that is a size: far beyond any model."""

STRIDES = [those for count in (1, 2, 3, 4) for those in combinations((4, 8, 16, 32), count)]
"""What trunk_strides can be."""

FIXED_SIDES = (PATCH, 65535)
"""The least and the largest side that a model of a fixed size is made for."""

MOST_WEIGHTS = 10**9
"""Of the transformer: fifty times the paper's, 4 GB in fp32."""

_NUMBER, _TRIPLE = "a finite number", "three finite numbers"
_KINDS = {
    **dict.fromkeys(("preset", "target", "source", "resize"), "text"),
    **dict.fromkeys(RANGES, "a whole number"),
    **dict.fromkeys(SIDES, "a whole number, or none"),
    **dict.fromkeys(("score_shift", "score_scale"), _NUMBER),
    "norm_eps": "a finite number of at least 0",
    "mean": _TRIPLE,
    "std": "three finite numbers above 0",
    "unbiased_std": "true or false",
    "score_range": "two finite numbers, or none",
    "trunk_strides": "some of 4, 8, 16, 32, ascending",
    "scales": "scales, at least one, with sizes of 1 to 65535",
}
"""What each field must be, in the words of the message that refuses another."""


def _is_a(kind: str, value: Any) -> bool:
    """Whether a field's value is what _KINDS says of it."""
    checks: dict[str, Callable[[Any], bool]] = {
        "text": lambda text: isinstance(text, str),
        "a whole number": _is_whole,
        "a whole number, or none": lambda number: number is None or _is_whole(number),
        _NUMBER: _is_finite,
        "a finite number of at least 0": lambda number: _is_finite(number) and number >= 0,
        _TRIPLE: lambda numbers: _are_finite(numbers, 3),
        "three finite numbers above 0": lambda numbers: _are_finite(numbers, 3) and min(numbers) > 0,
        "true or false": lambda flag: isinstance(flag, bool),
        "some of 4, 8, 16, 32, ascending": lambda strides: strides in STRIDES,
        "two finite numbers, or none": lambda numbers: numbers is None or _are_finite(numbers, 2),
    }
    return checks.get(kind, _are_scales)(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(abs(value) < 1e30)  # NaN is not


def _are_finite(values: Any, count: int) -> bool:
    return isinstance(values, tuple) and len(values) == count and all(map(_is_finite, values))


def _are_scales(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) > 0
        and all(isinstance(each, Scale) and each.is_sane for each in values)
    )


def _shown(value: Any) -> str:
    """A value as a message shows it: a nonsense one may be of any length."""
    return repr(value)[:60]


def share_columns(outputs: int) -> list[str]:
    """The columns `share_1` to `share_K` of a model with K > 1 outputs; none for a model of scores alone."""
    return [f"share_{rating}" for rating in range(1, outputs + 1)] if outputs > 1 else []
