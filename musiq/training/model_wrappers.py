"""What makes training steadier or smaller without being part of the model: stochastic depth, tokens left out, an average
of the weights, activation checkpointing, channels-last, compilation.

All of it is put round a model that knows nothing of it, and none of it reaches a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint, noop_context_fn
from torchvision.ops import stochastic_depth

from musiq.errors import MusiqError
from musiq.model.network import Layer, Musiq, PatchTrunk
from musiq.training.recipe import Recipe


def wrap_model(model: Musiq, recipe: Recipe, device: torch.device) -> None:
    """Change how `model` computes while it trains, as the recipe says. Raises MusiqError where it cannot be compiled."""
    if recipe.drop_path:
        add_stochastic_depth(model, recipe.drop_path)
    if recipe.token_drop:
        leave_tokens_out(model, recipe.token_drop)
    if recipe.checkpointing:
        checkpoint_activations(model)
    # Compiled, a patch trunk keeps its layout: torch 2.14 tells its compiler another one than group norms give.
    if recipe.channels_last and not (recipe.compile and model.spec.trunk == "patch"):
        model.to(memory_format=torch.channels_last)
    if recipe.compile:
        _try_compiler(device)
        model.compile()  # in place: names of tensors stay what they are


def weight_average(model: Musiq, decay: float) -> AveragedModel | None:
    """An exponential moving average of the weights, None for decay 0; batch norms' statistics are the model's own.

    The decay of update n is min(decay, (1 + n) / (10 + n)), so that the first steps are forgotten soon (as TensorFlow's
    ExponentialMovingAverage with num_updates).
    """
    if not decay:
        return None

    def blend(averages: Any, values: Any, updates: Any) -> None:
        count = int(updates)
        torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + count) / (10 + count)))

    return AveragedModel(model, multi_avg_fn=torch.no_grad()(blend))


def add_stochastic_depth(model: Musiq, most: float) -> None:
    """Stochastic depth (Huang et al., arXiv 1603.09382): in training, an image's residual branches of transformer layer l
    of L are left out with probability most * l / L, and scaled up where they are not."""
    for number, layer in enumerate(model.layers, 1):
        assert isinstance(layer, Layer)
        for branch in (layer.attention, layer.mlp):
            branch.register_forward_hook(_dropping(most * number / len(model.layers)))


def _dropping(rate: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda module, _, output: stochastic_depth(output, rate, "row", training=module.training)


def leave_tokens_out(model: Musiq, rate: float) -> None:
    """In training the transformer sees a random part of the tokens, 1 - rate of them and the class token, the same ones of
    all images of a piece (PatchDropout, Liu et al., arXiv 2208.07220)."""

    def kept(module: nn.Module, _: Any, tokens: Tensor) -> Tensor:
        if not module.training:
            return tokens
        count = tokens.shape[1] - 1  # the class token is in front
        chosen = 1 + torch.randperm(count)[: max(1, round(count * (1 - rate)))].sort().values
        return tokens[:, torch.cat([chosen.new_zeros(1), chosen]).to(tokens.device)]

    model.embed.register_forward_hook(kept)


def checkpoint_activations(model: Musiq) -> None:
    """Keep only what goes into each block, and compute the inside again in the backward pass: the same gradients in less
    memory, for about a third more time."""
    blocks: list[nn.Module] = list(model.layers)
    blocks += [model.trunk] if isinstance(model.trunk, PatchTrunk) else blocks_of(model.trunk)
    for block in blocks:
        block.forward = _checkpointed(block, block.forward)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a trunk over whole scales: what its sequences consist of, and is no sequence itself."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(module, nn.Sequential) and not isinstance(child, nn.Sequential) and [*child.children()]:
            found.append(child)
        else:
            found += blocks_of(child)
    return found


def _checkpointed(block: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A block's `forward`, in training by torch's checkpoint: run a second time where its activations are needed."""

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Of the first run and of the second, in which batch norms must not count the same images again."""
        return nullcontext(), frozen_statistics(block)

    has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
    context_fn = contexts if has_batch_norm else noop_context_fn

    def checkpointed(*args: Any, **kwargs: Any) -> Tensor:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=context_fn, **kwargs)

    return checkpointed


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch and leave their running statistics alone: the same images pass twice."""
    moving = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d) and norm.training]
    momenta = [norm.momentum for norm in moving]
    for norm in moving:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(moving, momenta, strict=True):
            norm.momentum = momentum


def _try_compiler(device: torch.device) -> None:
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as problem:  # whatever compilers and their drivers raise: no C++ compiler, an old GPU, no triton
        lines = str(problem).strip().splitlines()
        raise MusiqError(
            f"--compile does not work on this machine ({lines[0] if lines else type(problem).__name__}). Install a C++ "
            "compiler, or leave the option out."
        ) from problem
