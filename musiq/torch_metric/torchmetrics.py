"""`MUSIQScore`: the mean score over batches and processes, as a metric of torchmetrics (extra `torchmetrics`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musiq.errors import check_installed
from musiq.torch_metric.metric import Image, create_metric

check_installed(["torchmetrics"], "musiq.torch_metric.torchmetrics", "torchmetrics")

import torchmetrics  # noqa: E402, after the line that says how to install it


class MUSIQScore(torchmetrics.Metric):
    """The mean score of all images since the last `reset`; processes are added up by `compute`.

    Attributes:
        musiq: The `Metric` that scores.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    total: Tensor
    images: Tensor

    def __init__(self, model: str | Path, *, resize: str | None = None, **options: Any) -> None:
        """Load a model, on the CPU; `.to(device)` moves it.

        Args:
            model: As of `musiq.create_metric`.
            resize: As of `musiq.create_metric`.
            options: Those of every torchmetrics.Metric: `sync_on_compute`, `process_group` and so on.

        Raises:
            MusiqError: As of `musiq.create_metric`.
        """
        super().__init__(**options)
        self.musiq = create_metric(model, "cpu", resize=resize)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, images: Image | Sequence[Image]) -> None:
        """Score images and add them. `images` as of `Metric.forward`, which says what is refused."""
        scores = self.musiq(images)
        self.total += scores.double().sum()
        self.images += len(scores)

    def compute(self) -> Tensor:
        """The mean score, (); NaN before the first image."""
        return (self.total / self.images).float()
