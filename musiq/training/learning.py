"""What training is made of: the model to begin with, the optimiser, the schedule, the scores of a set.

train.py is the loop that puts these together; musiq.training.gradients has the loss and gradient of a batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from musiq import checkpoint
from musiq.data import Dataset, Labelled, dataset_numbers
from musiq.errors import MusiqError
from musiq.model import Musiq
from musiq.spec import PRESETS, Spec, preset
from musiq.training.batches import Pictures, load
from musiq.training.gradients import Wanted
from musiq.training.runs import Settings
from musiq.training.trunk import Loaded, all_norms, load_trunk


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Of one step: linear over the first `warmup` (a fraction of all steps), then one cosine to zero without restart."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def build_model(settings: Settings, dataset: Dataset, resumed: bool = False) -> tuple[Musiq, list[str], str]:
    """The model to begin with, whose Spec tells how to read its score in the labels' own units; which of its batch norms
    keep the statistics that came with their weights; and a line about trunk weights that were missing.

    `resumed` leaves the trunk's weights out: those of the run come over them.
    """
    torch.manual_seed(settings.seed)
    if settings.start is None:
        model = Musiq(training_spec(preset(settings.preset, settings.height, settings.width), settings, dataset))
        trunk = Loaded() if resumed else load_trunk(model, settings.trunk_weights)
        frozen = trunk.whole_norms if settings.batch_norm == "frozen" else []
        return model, frozen, trunk.missing
    start = checkpoint.load(Path(settings.start), settings.height, settings.width)
    model = Musiq(training_spec(start.spec, settings, dataset))
    # All but the head, which spoke of another target.
    body = {name: value for name, value in start.state_dict().items() if not name.startswith("head.")}
    model.load_state_dict(body, strict=False)
    return model, all_norms(model) if settings.batch_norm == "frozen" else [], ""


def training_spec(spec: Spec, settings: Settings, dataset: Dataset) -> Spec:
    """With one output the head learns z-scores of the training labels, with K the shares of the ratings 1..K."""
    labels = np.array([item.mos for item in dataset.split("train")])
    shift, scale = (float(labels.mean()), float(labels.std())) if settings.outputs == 1 else (0.0, 1.0)
    if scale == 0:
        raise MusiqError(f"All {len(labels)} training labels are {labels[0]:g}: there is nothing to learn from them.")
    # The scales that a start had, unless others are asked for: its embeddings are those of the whole pyramid.
    scales = PRESETS[spec.preset].scales if settings.scales == "pyramid" else spec.scales
    if settings.scales == "native":
        scales = tuple(scale for scale in scales if scale.length is None)
    return dataclasses.replace(
        spec,
        scales=scales,
        outputs=settings.outputs,
        score_shift=shift,
        score_scale=scale,
        score_range=dataset.score_range,
        target=dataset.target,
        source="train.py" + (f", from {Path(settings.start).name}" if settings.start else ""),
    )


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


def set_training(model: Musiq, frozen: Sequence[str]) -> None:
    """Training mode, but `frozen` batch norms keep the statistics that came with the trunk's weights: those of small
    batches are poor, and the scales of a pyramid would mix theirs."""
    model.train()
    for name in frozen:
        model.get_submodule(name).eval()


def wanted_of(items: Sequence[Labelled], spec: Spec, device: torch.device) -> Wanted:
    """What the head should say of these pictures; where they are from several datasets, each is a group."""
    labels = (np.array([item.mos for item in items]) - spec.score_shift) / spec.score_scale
    scores = torch.tensor(labels, dtype=torch.float32, device=device)
    numbers = dataset_numbers(items)
    groups = torch.tensor(numbers, device=device) if max(numbers) else None
    if spec.outputs == 1:
        return Wanted(scores, None, groups)
    return Wanted(scores, torch.tensor([item.shares for item in items], dtype=torch.float32, device=device), groups)


@dataclass(frozen=True)
class Scored:
    """`scores` of each item in the labels' units, NaN where its picture cannot be read; its `shares` of the ratings 1..K
    for a model of K > 1 outputs, else (); and one line for each `problem` picture."""

    scores: list[float]
    shares: list[tuple[float, ...]]
    problems: list[str]


def score(
    accelerator: Any,
    model: Musiq,
    items: Sequence[Labelled],
    batch_size: int,
    workers: int,
    tick: Callable[[int], None] = lambda count: None,
) -> Scored:
    """Scores by exactly one process of the accelerator for each item; every process gets all of them. `tick` is told how
    many pictures each step was."""
    from accelerate.utils import broadcast, gather_object

    mine = list(range(accelerator.process_index, len(items), accelerator.num_processes))
    batches = [mine[at : at + batch_size] for at in range(0, len(mine), batch_size)]
    found: list[tuple[int, tuple[float, ...]]] = []
    problems: list[str] = []
    model.eval()
    if accelerator.num_processes > 1:
        for name, statistic in model.state_dict().items():
            if "running_" in name:  # trained batch norms have seen other pictures in each process
                statistic.copy_(broadcast(statistic))
    with torch.inference_mode():
        for images, indices, unread in load(Pictures(items, model.spec.height, model.spec.width), batches, workers):
            if len(indices):
                read = model.read(model(images.to(accelerator.device)).float())  # (n,), (n, K) for shares
                rows = torch.cat([read[0][:, None], *read[1:]], dim=1)
                found += zip(indices.tolist(), map(tuple, rows.tolist()), strict=True)
            problems += unread
            tick(len(indices) + len(unread))
    rows_of: dict[int, tuple[float, ...]] = dict(gather_object(found))
    every = [rows_of.get(index, (math.nan,)) for index in range(len(items))]
    return Scored([row[0] for row in every], [row[1:] for row in every], sorted(gather_object(problems)))
