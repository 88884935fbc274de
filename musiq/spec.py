"""`Spec`: the one record of what a model is and what its score means.

Written by `train.py` or by a checkpoint importer, saved in the checkpoint, copied into every artifact, and read back by
`musiq.load`. Nothing else in the project knows a scale length, a kernel, a mean or a score range.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from musiq.errors import MusiqError

PATCH = 32
"""Pixels of one token's side: a MUSIQ patch (arXiv 2108.05997, section 4.1) and ResNet-50's total stride alike."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Scale:
    """One image of the pyramid.

    `length` is the pixels of `side` ("longer" or "width") after the resize, None for the image as it is; `rows` keeps
    only so many rows from the top; `embedding` is the row of the scale embedding that its tokens get.
    """

    length: int | None = None
    side: str = "longer"
    rows: int | None = None
    embedding: int = 0

    @property
    def name(self) -> str:
        return "native" if self.length is None else f"scale_{self.length}"


@dataclass(frozen=True)
class Spec:
    """Everything needed to rebuild a model besides its weights, and to read its score.

    Images are uint8 RGB (N, height, width, 3). `mean` and `std` are per channel, for pixel values in [0, 1]. The score
    is `score_shift + score_scale * head` for one output, and the same of the mean rating (1..outputs) for a distribution.
    `score_range` is (worst, best) as the training target defines it, None if unknown; a model can leave it slightly.
    """

    preset: str
    trunk: str  # "resnet50": torchvision's, over each whole scale; "patch": the paper's, per 32x32 patch
    scales: tuple[Scale, ...]  # in the order of their tokens
    kernel: str  # of the pyramid: "cubic" or "gaussian", see musiq.pyramid
    height: int = 768
    width: int = 1024
    rounding: str = "nearest"  # of a resized side: "nearest", "nearest-float32" (ratio in float32) or "floor"
    fit: str = "cover"  # images of another size: resized to cover height x width, then cropped in the middle
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    trunk_channels: int = 64  # patch trunk: channels of its first convolution, a quarter of its last
    trunk_groups: int = 32  # patch trunk: groups of its group norms
    unbiased_std: bool = False  # patch trunk: divisor n - 1 in the standardised convolution
    dim: int = 384
    layers: int = 14
    heads: int = 6
    head_dim: int = 64
    mlp_dim: int = 1152
    norm: str = "pre"  # "pre" (with a final norm) or "post" (without)
    norm_eps: float = 1e-6
    gelu: str = "none"  # torch's name for the exact one; "tanh" for the approximation
    position_grid: int = 10
    position_rule: str = "integer"  # r * grid // rows, or "float64": int(r / rows * grid)
    scale_embeddings: int = 3
    head_hidden: int = 0  # 0: one linear layer with bias; else a hidden layer and no biases
    outputs: int = 1  # 1: a score; K > 1: shares of the ratings 1..K
    score_shift: float = 0.0
    score_scale: float = 1.0
    score_range: tuple[float, float] | None = None
    target: str = "unknown"  # what the score was trained to predict, as every figure names it
    source: str = ""  # where the weights come from

    def __post_init__(self) -> None:
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise MusiqError(f"Spec.{field} is {getattr(self, field)!r}; expected one of {', '.join(allowed)}.")
        if self.height < PATCH or self.width < PATCH:
            raise MusiqError(
                f"A model for {self.width}x{self.height} images is not possible: each side needs at least {PATCH} "
                "pixels, one patch. Give a larger --height and --width."
            )
        if max(scale.embedding for scale in self.scales) >= self.scale_embeddings:
            raise MusiqError(f"A scale names an embedding row beyond the {self.scale_embeddings} there are.")

    def size(self, scale: Scale) -> tuple[int, int]:
        """(rows, columns) of the resized image, before `scale.rows` cuts it."""
        if scale.length is None:
            return self.height, self.width
        side = self.width if scale.side == "width" else max(self.height, self.width)
        return self._resized(self.height, scale.length, side), self._resized(self.width, scale.length, side)

    def _resized(self, pixels: int, length: int, side: int) -> int:
        if self.rounding == "floor":
            return max(1, pixels * length // side)
        if self.rounding == "nearest-float32":
            return max(1, int(np.round(np.float32(pixels) * (np.float32(length) / np.float32(side)))))
        return max(1, round(pixels * length / side))

    def kept_size(self, scale: Scale) -> tuple[int, int]:
        """(rows, columns) of the image that the trunk sees."""
        rows, columns = self.size(scale)
        return min(rows, scale.rows or rows), columns

    def grid(self, scale: Scale) -> tuple[int, int]:
        """(rows, columns) of the tokens of one scale: both trunks round up to whole patches."""
        rows, columns = self.kept_size(scale)
        return -(-rows // PATCH), -(-columns // PATCH)

    @property
    def tokens(self) -> int:
        """Tokens in the transformer, the class token included."""
        return 1 + sum(rows * columns for rows, columns in map(self.grid, self.scales))

    def at(self, height: int | None = None, width: int | None = None) -> Spec:
        """The same model for images of another fixed size."""
        return dataclasses.replace(self, height=height or self.height, width=width or self.width)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Raises MusiqError for text that is no Spec, or one with fields that this version does not know."""
        try:
            values: dict[str, Any] = json.loads(text)
            values["scales"] = tuple(Scale(**scale) for scale in values["scales"])
            for field in ("mean", "std", "score_range"):
                if values.get(field) is not None:
                    values[field] = tuple(values[field])
            return cls(**values)
        except (TypeError, KeyError, ValueError) as problem:
            raise MusiqError(
                f"The Spec in this file cannot be read ({problem}). It may come from a newer version of this package: "
                "upgrade it, or export the model again."
            ) from problem


CHOICES = {
    "fit": ("cover",),
    "trunk": ("resnet50", "patch"),
    "kernel": ("cubic", "gaussian"),
    "rounding": ("nearest", "nearest-float32", "floor"),
    "norm": ("pre", "post"),
    "gelu": ("none", "tanh"),
    "position_rule": ("integer", "float64"),
}

_PAPER_SCALES = (Scale(224, embedding=0), Scale(384, embedding=1), Scale(embedding=2))
_WIDTH_SCALES = (Scale(embedding=0), Scale(384, "width", embedding=1), Scale(224, "width", embedding=2))

PRESETS: dict[str, Spec] = {
    # What train.py trains unless told otherwise.
    "resnet50": Spec("resnet50", "resnet50", _WIDTH_SCALES, "cubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
    # The published PyTorch reimplementation, with its own ways: post-norm, heads as wide as the model, the smallest scale
    # cut to 160 rows and given the middle one's embedding.
    "resnet50-classic": Spec(
        "resnet50-classic",
        "resnet50",
        (Scale(embedding=0), Scale(384, "width", embedding=1), Scale(224, "width", rows=160, embedding=1)),
        "cubic",
        rounding="floor",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        head_dim=384,
        mlp_dim=384,
        norm="post",
        norm_eps=1e-12,
        position_rule="float64",
        head_hidden=1152,
    ),
    # The paper's own model (Flax weights), and its PyTorch port with another kernel, GELU and deviation.
    "musiq": Spec("musiq", "patch", _PAPER_SCALES, "gaussian", rounding="nearest-float32", gelu="tanh"),
    "musiq-pyiqa": Spec("musiq-pyiqa", "patch", _PAPER_SCALES, "cubic", unbiased_std=True),
    # Small enough to train on a laptop's CPU in minutes: the demo's and the tests' model.
    "tiny": Spec(
        "tiny",
        "patch",
        (Scale(embedding=0), Scale(128, embedding=1), Scale(96, embedding=2)),
        "cubic",
        height=192,
        width=256,
        trunk_channels=16,
        trunk_groups=8,
        dim=96,
        layers=3,
        heads=3,
        head_dim=32,
        mlp_dim=192,
    ),
}


def preset(name: str, height: int | None = None, width: int | None = None) -> Spec:
    """The Spec of a named preset, for images of `height` x `width` pixels where given."""
    if name not in PRESETS:
        raise MusiqError(f"There is no preset {name!r}; the presets are {', '.join(PRESETS)}.")
    return PRESETS[name].at(height, width)


def share_columns(outputs: int) -> list[str]:
    """The columns `share_1` to `share_K` of a model with K > 1 outputs; none for a model of scores alone."""
    return [f"share_{rating}" for rating in range(1, outputs + 1)] if outputs > 1 else []
