"""Scores a set of labelled images with the model in training, over all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from musiq.datasets.dataset import Labelled
from musiq.model.network import Musiq
from musiq.training.dataloader import LabelledImages, load_batches


@dataclass(frozen=True)
class Scored:
    """The scores of a set of images by a model.

    Attributes:
        scores: Of each item, in the labels' units; NaN where its image cannot be read.
        shares: Of each item, the predicted shares of the ratings 1..K for a model of K > 1 outputs, else ().
        problems: One line for each image that cannot be read.
    """

    scores: list[float]
    shares: list[tuple[float, ...]]
    problems: list[str]


def score(
    accelerator: Any,
    model: Musiq,
    items: Sequence[Labelled],
    batch_size: int,
    workers: int,
    after_batch: Callable[[int], None] = lambda count: None,
    images: Dataset[Any] | None = None,
) -> Scored:
    """Score images, each in exactly one process of the accelerator; every process gets all of the scores.

    Args:
        accelerator: accelerate's.
        model: On the accelerator's device.
        items: The images.
        batch_size: Images in a call of the model.
        workers: Processes that decode images.
        after_batch: Called with the number of images of each batch that is done.
        images: What the model takes of each item; None for the images themselves.
    """
    from accelerate.utils import broadcast, gather_object

    mine = list(range(accelerator.process_index, len(items), accelerator.num_processes))
    batches = [mine[at : at + batch_size] for at in range(0, len(mine), batch_size)]
    found: list[tuple[int, tuple[float, ...]]] = []
    problems: list[str] = []
    model.eval()
    if accelerator.num_processes > 1:
        for name, statistic in model.state_dict().items():
            if "running_" in name:  # trained batch norms have seen other images in each process
                statistic.copy_(broadcast(statistic))
    with torch.inference_mode():
        dataset = LabelledImages(items, *model.spec.fixed_size) if images is None else images
        for given, indices, unread in load_batches(dataset, batches, workers):
            if len(indices):
                read = model.read(model(given.to(accelerator.device)).float())  # (n,), (n, K) for shares
                rows = torch.cat([read[0][:, None], *read[1:]], dim=1)
                found += zip(indices.tolist(), map(tuple, rows.tolist()), strict=True)
            problems += unread
            after_batch(len(indices) + len(unread))
    rows_of: dict[int, tuple[float, ...]] = dict(gather_object(found))
    every = [rows_of.get(index, (math.nan,)) for index in range(len(items))]
    return Scored([row[0] for row in every], [row[1:] for row in every], sorted(gather_object(problems)))
