"""Batch norms as a part of the convolutions before them, in trunks whose modules may have any names."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from musiq.spec import PATCH


def fold_batch_norms(trunk: nn.Module) -> nn.Module:
    """A copy of a trunk without the batch norms that read what a convolution made; those with an activation leave it.

    Args:
        trunk: In float64 and eval mode; over each whole scale.

    Returns:
        The copy. The trunk itself where it would give others tokens: something else reads such a convolution too.
    """
    example = torch.randn(1, 3, 2 * PATCH, 3 * PATCH, generator=torch.Generator().manual_seed(0)).double()
    pairs = _pairs(trunk, example)
    folded = copy.deepcopy(trunk)
    for conv, norm in pairs.items():
        one, other = cast(nn.Conv2d, folded.get_submodule(conv)), cast(nn.BatchNorm2d, folded.get_submodule(norm))
        folded.set_submodule(conv, fuse_conv_bn_eval(one, other))
        folded.set_submodule(norm, getattr(other, "act", nn.Identity()))  # timm's have it inside
    for module in folded.modules():
        if hasattr(module, "inplace"):  # exporters trace what is in place twice
            setattr(module, "inplace", False)  # noqa: B010, of a module of any kind
    same = torch.allclose(folded([example]), trunk([example]), rtol=1e-6, atol=1e-9)
    return folded if same else trunk


def _pairs(trunk: nn.Module, example: Tensor) -> dict[str, str]:
    """The names of convolutions, each with that of the batch norm that reads what it made."""
    made: dict[int, tuple[str, Tensor]] = {}  # by the identity of the output, which is kept so that no other has it
    found: dict[str, str] = {}

    def watch(name: str, module: nn.Module) -> Any:
        if isinstance(module, nn.Conv2d):
            return module.register_forward_hook(lambda _, __, output: made.update({id(output): (name, output)}))

        def reads(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if id(given[0]) in made:
                found[made[id(given[0])][0]] = name

        return module.register_forward_pre_hook(reads)

    kinds = nn.Conv2d, nn.BatchNorm2d
    hooks = [watch(name, module) for name, module in trunk.named_modules() if isinstance(module, kinds)]
    trunk([example])
    for hook in hooks:
        hook.remove()
    return found
