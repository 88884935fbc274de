"""timm's feature extractors as trunks take them: the stages that are asked for, for images of whole patches."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musiq.errors import MusiqError, check_installed
from musiq.spec import PATCH


class SameConv2d(nn.Conv2d):
    """timm's Conv2dSame, TensorFlow's SAME, where images have whole patches: each map has whole strides then, and the
    padding, which timm computes from the map's size, is a constant."""

    def __init__(self, conv: nn.Conv2d) -> None:
        sizes: Any = {"kernel_size": conv.kernel_size, "stride": conv.stride, "dilation": conv.dilation}
        super().__init__(conv.in_channels, conv.out_channels, **sizes, groups=conv.groups, bias=conv.bias is not None)
        self.weight, self.bias = conv.weight, conv.bias
        steps = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        down, across = (max(0, (size - 1) * dilation + 1 - stride) for size, stride, dilation in steps)
        self.pads = across // 2, across - across // 2, down // 2, down - down // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, self.pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def timm_features(name: str, strides: tuple[int, ...]) -> nn.Module:
    """A feature extractor of timm's with random weights: from images (B, 3, h, w) of whole patches to a list of one map
    (B, C, h/s, w/s) for each stride s. Its `feature_info.channels()` are their C.

    Args:
        name: As timm has it.
        strides: Of the maps, ascending. What comes after the last one is not built.

    Raises:
        MusiqError: timm is not installed, has no such network, or none with these maps for images of any size.
    """
    timm = import_timm()
    _config(name)
    try:
        with torch.device("meta"):  # shapes alone
            every = timm.create_model(name, features_only=True).feature_info
            reductions = [stage["reduction"] for stage in every.info]
            missing = sorted(set(strides) - set(reductions))
            # Of several maps with a stride the last one: what the network has made of it.
            last = [] if missing else [len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides]
            found = [] if missing else _build(name, last).eval()(torch.zeros(1, 3, *SEEN))
    except Exception as problem:  # whatever those raise that give no maps, or know one size alone
        raise _unfit(name, strides, problem) from problem
    if missing:
        raise _unfit(name, strides, f"its strides are {', '.join(map(str, sorted(set(reductions))))}")
    sizes = [tuple(x.shape[2:]) for x in found]
    if sizes != [tuple(side // stride for side in SEEN) for stride in strides]:
        raise _unfit(name, strides, f"its maps of {SEEN[1]}x{SEEN[0]} pixels are of {sizes}")
    net = _build(name, last)
    _simplify(net)
    return net


SEEN = 2 * PATCH, 3 * PATCH
"""Height and width that a network is asked for its maps of."""


def _unfit(name: str, strides: tuple[int, ...], problem: object) -> MusiqError:
    wanted = ", ".join(map(str, strides))
    return MusiqError(
        f"timm's {name} cannot be a trunk: it gives no maps of stride {wanted} for images of any size "
        f"({' '.join(str(problem).split())[:200]}). Take a convolutional network, such as tf_efficientnet_lite0."
    )


def import_timm() -> Any:
    """timm. Raises MusiqError where it is not installed."""
    check_installed(("timm",), "A trunk of timm's", "train")
    import timm

    return timm


def short_names(state: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a whole network of timm's under the names that its feature extractor has for them: some call
    "stages.0.norm" "stages_0.norm", others "model.stages.0.norm"."""
    known = {
        name: next(
            (each for each in (name, _SPLIT.sub(r"\1.", name), name.removeprefix("model.")) if each in state), ""
        )
        for name in wanted
    }
    return {name: state[whole] for name, whole in known.items() if whole}


_SPLIT = re.compile(r"^([^.]*)_(?=\d+\.)")


def pixel_statistics(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The mean and standard deviation of pixels that a network's ImageNet weights were trained with. Raises MusiqError
    where timm is not installed or has no such network."""
    config = _config(name)
    return cast(Any, (tuple(config.mean), tuple(config.std)))


def _config(name: str) -> Any:
    """What timm knows of a network. Raises MusiqError where it has none of that name."""
    timm = import_timm()
    with suppress(RuntimeError):  # of a tag that it does not have
        if timm.is_model(name) and (found := timm.get_pretrained_cfg(name)) is not None:
            return found
    near = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], 3, 0.5)
    raise MusiqError(
        f"timm {timm.__version__} has no network {name!r}{'; near are ' * bool(near)}{', '.join(near)}. Give one that it "
        "has, or upgrade it."
    )


def _build(name: str, maps: list[int]) -> nn.Module:
    """A network with random weights up to the last of its `maps`. timm leaves out the stages after it where it makes a list
    of them, but not of its EfficientNets."""
    net = import_timm().create_model(name, features_only=True, out_indices=tuple(maps))
    kind, _, number = net.feature_info.module_name()[-1].partition(".")
    if kind == "blocks" and number.isdecimal() and isinstance(getattr(net, "blocks", None), nn.Sequential):
        net.blocks = net.blocks[: int(number) + 1]
    return cast(nn.Module, net)


def _simplify(net: nn.Module) -> None:
    from timm.layers.conv2d_same import Conv2dSame

    for path, module in list(net.named_modules()):
        if isinstance(module, Conv2dSame):
            net.set_submodule(path, SameConv2d(module))
        if hasattr(module, "fused_attn"):  # attention that exports can write down
            cast(Any, module).fused_attn = False
