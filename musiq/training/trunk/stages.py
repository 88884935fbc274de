"""A trunk over whole scales cut where it begins to learn: what is before gives the same maps in every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musiq.errors import MusiqError
from musiq.model.network import Musiq, PatchTrunk, ResNetTrunk, TimmTrunk
from musiq.spec import PATCH


@dataclass(frozen=True)
class Step:
    """A part of a network in its order; `stride` of the map after it where tokens are made of that, else 0."""

    module: nn.Module
    stride: int = 0


@dataclass(frozen=True)
class CutTrunk:
    """A trunk as two sequences of steps.

    Attributes:
        trunk: Whose steps they are.
        frozen: Those before the first that learns.
        learning: The others.
    """

    trunk: ResNetTrunk | TimmTrunk
    frozen: list[Step]
    learning: list[Step]

    @classmethod
    def of(cls, model: Musiq) -> CutTrunk:
        """That of a model of which a part is frozen. Raises MusiqError for a trunk that is no sequence of stages."""
        trunk = cast("ResNetTrunk | TimmTrunk", model.trunk)
        steps = _steps(trunk)
        learns = [any(parameter.requires_grad for parameter in step.module.parameters()) for step in steps]
        cut = learns.index(True) if True in learns else len(steps)
        return cls(trunk, steps[:cut], steps[cut:])

    def maps(self, scale: Tensor) -> list[Tensor]:
        """What the frozen steps make of a scale (B, 3, h, w): the maps that tokens are made of, averaged down, each
        (B, C, R, C'), and last, where steps learn, what the first of those reads."""
        x, found = _run(self.frozen, scale)
        return [*found, x] if self.learning else found

    def tokens(self, maps: list[Tensor]) -> Tensor:
        """From `maps` on: (B, D, R*C')."""
        if not self.learning:
            return self.trunk.project(torch.cat(maps, dim=1)).flatten(2)
        _, found = _run(self.learning, maps[-1])
        return self.trunk.project(torch.cat([*maps[:-1], *found], dim=1)).flatten(2)


def _run(steps: list[Step], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The last map, and those that tokens are made of, averaged down to PATCH."""
    found = []
    for step in steps:
        x = step.module(x)
        if step.stride:
            found.append(x if step.stride == PATCH else F.avg_pool2d(x, PATCH // step.stride))
    return x, found


def _steps(trunk: ResNetTrunk | TimmTrunk | PatchTrunk) -> list[Step]:
    if isinstance(trunk, PatchTrunk):
        raise MusiqError(
            "--window is for trunks over whole scales, and this model takes patches one by one: give --token-drop."
        )
    net: Any = trunk.net
    if isinstance(trunk, ResNetTrunk):
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
        return [*(Step(getattr(net, name)) for name in names), Step(net.layer4, PATCH)]
    strides = dict(zip(net.feature_info.module_name(), trunk.strides, strict=True))
    kind = type(net).__name__
    if kind == "EfficientNetFeatures" and net.feature_hooks is None:
        blocks = [Step(block, strides.get(f"blocks.{index}", 0)) for index, block in enumerate(net.blocks)]
        return [Step(net.conv_stem), Step(net.bn1), *blocks]
    if kind == "FeatureListNet":
        read = dict(zip(net.return_layers, trunk.strides, strict=True))  # both in the network's order
        return [Step(module, read.get(name, 0)) for name, module in net.items()]
    raise MusiqError(
        "--cache-frozen and --window are for networks of stages one after another, such as EfficientNets, ResNets and "
        f"ConvNeXts, not for this one of timm's ({kind}). Leave them out."
    )


@dataclass(frozen=True)
class ScaleShapes:
    """Of a scale of an image: its tokens as (rows, columns), and the maps of `CutTrunk.maps`, each (C, R, C')."""

    tokens: tuple[int, int]
    maps: list[tuple[int, ...]]


def scale_shapes(cut: CutTrunk, model: Musiq) -> list[ScaleShapes]:
    """The shapes of an image of the model's size, by scale."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        image = torch.zeros(1, *model.spec.fixed_size, 3, dtype=torch.uint8, device=device)
        scales = cut.trunk.padded(model.pyramid(image))
        return [
            ScaleShapes(
                (scale.shape[2] // PATCH, scale.shape[3] // PATCH), [tuple(x.shape[1:]) for x in cut.maps(scale)]
            )
            for scale in scales
        ]
