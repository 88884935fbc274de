"""The optimizer, its groups of parameters with learning rates of their own, and the schedule of the rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from musiq.model.network import Musiq
from musiq.training.recipe import Recipe


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """The learning rate of one step: a linear warm-up, then one cosine to zero without restart.

    Args:
        step: Counted from 0.
        steps: Of the whole run.
        peak: The largest rate, reached at the end of the warm-up.
        warmup: The part of all steps in which the rate rises, in [0, 1].
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def build_optimizer(recipe: Recipe, model: Musiq) -> torch.optim.Optimizer:
    """Make the optimizer of a model's parameters.

    Weights decay; biases, norms and the class token, all of one dimension, do not.

    Args:
        recipe: `optimizer`, `lr`, `weight_decay`, and the factors `trunk_lr`, `head_lr`, `layer_decay`.
        model: Its parameters are trained, all but frozen ones.

    Returns:
        AdamW or SGD. Each group of parameters has a `factor`, which `set_rates` multiplies the learning rate by.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate_factor(name, recipe, len(model.layers)), decay), []).append(parameter)
    listed = [
        {"params": parameters, "factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(listed, lr=recipe.lr, momentum=0.9)
    return torch.optim.AdamW(listed, lr=recipe.lr)


def rate_factor(name: str, recipe: Recipe, layers: int) -> float:
    """The part of the learning rate that a parameter of a model with so many transformer layers gets.

    `layer_decay` counts from the head downwards, as in BEiT (arXiv 2106.08254): 1 for the head, its first power for the
    last layer, and the power layers + 1 for embeddings and trunk.
    """
    area, _, rest = name.partition(".")
    depth = layers + 1 if area in ("head", "norm") else 0
    if area == "layers":
        depth = int(rest.split(".")[0]) + 1
    # What projects the features of a network is as new as the transformer it feeds.
    part = recipe.trunk_lr if area == "trunk" and not rest.startswith("project.") else 1.0
    return recipe.layer_decay ** (layers + 1 - depth) * (recipe.head_lr if area == "head" else part)


def set_rates(optimizer: Any, rate: float) -> None:
    """Give each group of parameters its part of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
