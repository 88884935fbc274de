"""What training is made of: the model to begin with, the optimiser, the schedule, the scores of a set.

train.py is the loop that puts these together; musiq.training.objective has the loss and gradient of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from musiq.datasets.dataset import Labelled, dataset_numbers
from musiq.model.network import Musiq
from musiq.spec import Spec
from musiq.training.objective import Wanted
from musiq.training.run_folder import Settings


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Of one step: linear over the first `warmup` (a fraction of all steps), then one cosine to zero without restart."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def build_optimizer(settings: Settings, model: Musiq) -> torch.optim.Optimizer:
    """Weights decay; biases, norms and the class token, all of one dimension, do not. Each group has a `factor` of the
    learning rate: that of its part of the model."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate_factor(name, settings, len(model.layers)), decay), []).append(parameter)
    listed = [
        {"params": parameters, "factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(listed, lr=settings.lr, momentum=0.9)
    return torch.optim.AdamW(listed, lr=settings.lr)


def rate_factor(name: str, settings: Settings, layers: int) -> float:
    """The part of the learning rate that a parameter of a model with so many transformer layers gets.

    `layer_decay` counts from the head downwards, as in BEiT (arXiv 2106.08254): 1 for the head, its first power for the
    last layer, and the power layers + 1 for embeddings and trunk.
    """
    area, _, rest = name.partition(".")
    depth = layers + 1 if area in ("head", "norm") else 0
    if area == "layers":
        depth = int(rest.split(".")[0]) + 1
    # What projects a ResNet's features is as new as the transformer it feeds.
    part = settings.trunk_lr if area == "trunk" and not rest.startswith("project.") else 1.0
    return settings.layer_decay ** (layers + 1 - depth) * (settings.head_lr if area == "head" else part)


def set_rates(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def wanted_of(items: Sequence[Labelled], spec: Spec, device: torch.device) -> Wanted:
    """What the head should say of these images; where they are from several datasets, each is a group."""
    labels = (np.array([item.mos for item in items]) - spec.score_shift) / spec.score_scale
    scores = torch.tensor(labels, dtype=torch.float32, device=device)
    numbers = dataset_numbers(items)
    groups = torch.tensor(numbers, device=device) if max(numbers) else None
    if spec.outputs == 1:
        return Wanted(scores, None, groups)
    return Wanted(scores, torch.tensor([item.shares for item in items], dtype=torch.float32, device=device), groups)
