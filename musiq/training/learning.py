"""What training is made of: the model to begin with, the optimiser, the schedule, the loss of a batch, the scores of a set.

train.py is the loop that puts these together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from musiq import checkpoint
from musiq.data import Dataset, Labelled
from musiq.errors import MusiqError
from musiq.losses import Terms, total
from musiq.model import Musiq
from musiq.spec import Spec, preset
from musiq.training.batches import Pictures, load
from musiq.training.runs import Settings
from musiq.training.trunk import load_trunk

Wanted = tuple[Tensor, Tensor | None]
"""What the head should say of n pictures: scores (n,), and for K > 1 outputs the shares of the ratings 1..K (n, K)."""


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Of one step: linear over the first `warmup` (a fraction of all steps), then one cosine to zero without restart."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def build_model(settings: Settings, dataset: Dataset) -> Musiq:
    """The model to begin with; its Spec tells how to read its score in the labels' own units."""
    torch.manual_seed(settings.seed)
    if settings.start is None:
        model = Musiq(training_spec(preset(settings.preset, settings.height, settings.width), settings, dataset))
        load_trunk(model, settings.trunk_weights)
        return model
    start = checkpoint.load(Path(settings.start), settings.height, settings.width)
    model = Musiq(training_spec(start.spec, settings, dataset))
    # All but the head, which spoke of another target.
    body = {name: value for name, value in start.state_dict().items() if not name.startswith("head.")}
    model.load_state_dict(body, strict=False)
    return model


def training_spec(spec: Spec, settings: Settings, dataset: Dataset) -> Spec:
    """With one output the head learns z-scores of the training labels, with K the shares of the ratings 1..K."""
    labels = np.array([item.mos for item in dataset.split("train")])
    shift, scale = (float(labels.mean()), float(labels.std())) if settings.outputs == 1 else (0.0, 1.0)
    if scale == 0:
        raise MusiqError(f"All {len(labels)} training labels are {labels[0]:g}: there is nothing to learn from them.")
    return dataclasses.replace(
        spec,
        outputs=settings.outputs,
        score_shift=shift,
        score_scale=scale,
        score_range=dataset.score_range,
        target=dataset.target,
        source="train.py" + (f", from {Path(settings.start).name}" if settings.start else ""),
    )


def build_optimizer(settings: Settings, model: Musiq) -> torch.optim.Optimizer:
    """Weights decay; biases, norms and the class token, all of one dimension, do not."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=settings.lr)


def set_training(model: Musiq, batch_norm: str) -> None:
    """Training mode, but "frozen" batch norms keep the statistics that came with the trunk's weights: those of small
    batches are poor, and the scales of a pyramid would mix theirs."""
    model.train()
    if batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def wanted_of(items: Sequence[Labelled], spec: Spec, device: torch.device) -> Wanted:
    labels = (np.array([item.mos for item in items]) - spec.score_shift) / spec.score_scale
    scores = torch.tensor(labels, dtype=torch.float32, device=device)
    if spec.outputs == 1:
        return scores, None
    return scores, torch.tensor([item.shares for item in items], dtype=torch.float32, device=device)


def loss_of(outputs: Tensor, wanted: Wanted, terms: Terms, margin: float) -> Tensor:
    """The loss of the head's outputs (B, K) against what is wanted of the same pictures; 0 where none could be read."""
    scores, shares = wanted
    if not len(scores):
        return outputs.sum() * 0
    if shares is None:
        return total(terms, (outputs[:, 0], scores), None, margin)
    predicted = outputs.softmax(dim=1)
    ratings = torch.arange(1, outputs.shape[1] + 1, dtype=predicted.dtype, device=predicted.device)
    return total(terms, (predicted @ ratings, scores), (predicted, shares), margin)


def score(
    accelerator: Any,
    model: Musiq,
    items: Sequence[Labelled],
    batch_size: int,
    workers: int,
    tick: Callable[[int], None] = lambda count: None,
) -> tuple[list[float], list[str]]:
    """The score of each item in the labels' units, NaN where its picture cannot be read; and one line for each of those.

    Each item is scored by exactly one process of the accelerator, and every process gets all scores. `tick` is told how
    many pictures each step was.
    """
    from accelerate.utils import gather_object

    mine = list(range(accelerator.process_index, len(items), accelerator.num_processes))
    batches = [mine[at : at + batch_size] for at in range(0, len(mine), batch_size)]
    found: list[tuple[int, float]] = []
    problems: list[str] = []
    model.eval()
    with torch.inference_mode():
        for images, indices, unread in load(Pictures(items, model.spec.height, model.spec.width), batches, workers):
            if len(indices):
                scores = model.read(model(images.to(accelerator.device)).float())[0]
                found += zip(indices.tolist(), scores.tolist(), strict=True)
            problems += unread
            tick(len(indices) + len(unread))
    scored: dict[int, float] = dict(gather_object(found))
    return [scored.get(index, math.nan) for index in range(len(items))], sorted(gather_object(problems))
