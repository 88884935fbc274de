"""Loads images for training: worker processes decode and fit them, in an order that only the seed and epoch decide.

Nothing keeps a random state: any position of any epoch can be entered directly, which is what makes a resumed run equal
to one that was never interrupted, whatever the number of workers.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from musiq.datasets.dataset import Labelled
from musiq.errors import ImageError
from musiq.images.decode import prepare


class LoadedImages(NamedTuple):
    """A batch as the loader yields it: `images` uint8 (n, H, W, 3), their `indices` in the list of items, int64 (n,), and
    a line of `problems` for each image that cannot be read. With none readable, `images` is (0,)."""

    images: Tensor
    indices: Tensor
    problems: list[str]


class LabelledImages(Dataset[tuple[int, "Tensor | str"]]):
    """Items as uint8 (H, W, 3); mirrored for half of the (seed, epoch, index) where `flips` names seed and epoch."""

    def __init__(
        self, items: Sequence[Labelled], height: int, width: int, flips: tuple[int, int] | None = None
    ) -> None:
        self.items, self.height, self.width, self.flips = items, height, width, flips

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        """The index, and the image or why there is none."""
        try:
            image, _ = prepare(self.items[index].path, self.height, self.width)
        except ImageError as problem:
            return index, f"{self.items[index].image}: {problem}"
        if self.flips is not None and np.random.default_rng([*self.flips, index]).random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        return index, torch.from_numpy(image)


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of the training images in one epoch."""
    return [int(index) for index in np.random.default_rng([seed, epoch]).permutation(count)]


def batches_of_rank(order: Sequence[int], size: int, rank: int = 0, ranks: int = 1) -> list[list[int]]:
    """One process's even share of each whole batch of `size`; what is left at the end of an order is left out, so that
    every step averages over as many images."""
    whole = len(order) - len(order) % size
    return [list(order[start + rank : start + size : ranks]) for start in range(0, whole, size)]


def load_batches(
    images: LabelledImages, batches: Sequence[list[int]], workers: int, pin: bool = False
) -> Iterator[LoadedImages]:
    """The batches of these indices, read ahead by `workers` processes (0: by this one)."""
    loader: DataLoader[tuple[int, Tensor | str]] = DataLoader(
        images,
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=collate,
        worker_init_fn=_start_worker,
        pin_memory=pin,
    )
    return iter(loader)


def collate(examples: list[tuple[int, Tensor | str]]) -> LoadedImages:
    """Readable images stacked, the others named."""
    read = [(index, image) for index, image in examples if isinstance(image, Tensor)]
    problems = [problem for _, problem in examples if isinstance(problem, str)]
    images = torch.stack([image for _, image in read]) if read else torch.zeros(0, dtype=torch.uint8)
    return LoadedImages(images, torch.tensor([index for index, _ in read], dtype=torch.int64), problems)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one thread a worker: the workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the main one decides
    signal.signal(signal.SIGTERM, _ignore_once)


def _ignore_once(number: int, _: object) -> None:
    """A worker outlives one SIGTERM: a cluster that stops a job sends it to every process, and the main one still has a
    step to finish. PyTorch ends a worker that hangs by the same signal, and Python by another at the end."""
    signal.signal(number, signal.SIG_DFL)
