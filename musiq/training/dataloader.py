"""Loads images for training: worker processes decode and fit them, in an order that only the seed and epoch decide.

Nothing keeps a random state: any position of any epoch can be entered directly, which is what makes a resumed run equal
to one that was never interrupted, whatever the number of workers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakSet

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from musiq.datasets.dataset import Labelled
from musiq.errors import ImageError, MusiqError
from musiq.images.decode import prepare

SHARED_MEMORY = Path("/dev/shm")
PREFETCH = 2
"""Batches that each worker reads ahead."""

MIB = 2**20

_OPEN: WeakSet[Any] = WeakSet()
"""Loaders that somebody may still read from."""


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
        if self.flips is not None and is_mirrored(self.flips, index):
            image = np.ascontiguousarray(image[:, ::-1])
        return index, torch.from_numpy(image)


def is_mirrored(flips: tuple[int, int], index: int) -> bool:
    """Whether an image is, by its index and (seed, epoch)."""
    return bool(np.random.default_rng([*flips, index]).random() < 0.5)


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of the training images in one epoch."""
    return [int(index) for index in np.random.default_rng([seed, epoch]).permutation(count)]


def batches_of_rank(order: Sequence[int], size: int, rank: int = 0, ranks: int = 1) -> list[list[int]]:
    """One process's even share of each whole batch of `size`; what is left at the end of an order is left out, so that
    every step averages over as many images."""
    whole = len(order) - len(order) % size
    return [list(order[start + rank : start + size : ranks]) for start in range(0, whole, size)]


def load_batches(
    images: Dataset[tuple[int, Tensor | str]], batches: Sequence[list[int]], workers: int, pin: bool = False
) -> Iterator[LoadedImages]:
    """The batches of these indices, read ahead by `workers` processes (0: by this one)."""
    loader: DataLoader[tuple[int, Tensor | str]] = DataLoader(
        images,
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=collate,
        worker_init_fn=_start_worker,
        pin_memory=pin,
        prefetch_factor=PREFETCH if workers and batches else None,
    )
    batches_read = iter(loader)
    _OPEN.add(batches_read)
    return batches_read


def end_workers() -> None:
    """End the processes that decode of every loader that was left in the middle.

    They end with their loader; but an exception may hold it, and Python waits at its own exit for workers that outlive
    the one signal it sends them.
    """
    for loader in list(_OPEN):
        if end := getattr(loader, "_shutdown_workers", None):  # there is no public way
            end()


def check_shared_memory(workers: int, batches: int, batch_bytes: int) -> None:
    """Raise MusiqError where the batches that `workers` read ahead have no room in shared memory.

    A container has 64 MiB unless it is given more. Other processes of this machine (LOCAL_WORLD_SIZE, as launchers set
    it) read ahead as much.

    Args:
        workers: Processes that decode images.
        batches: How many there are in all.
        batch_bytes: Of the images of one.
    """
    free = _free_bytes(SHARED_MEMORY)
    if not workers or free is None:
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))

    def needed(count: int) -> int:
        return min(batches, PREFETCH * count + 1) * batch_bytes * processes  # one is being worked on

    if needed(workers) <= free:
        return
    fitting = max(count for count in range(workers) if not count or needed(count) <= free)
    most = f"--workers {fitting} or " if fitting else ""
    raise MusiqError(
        f"--workers {workers} pass images on in shared memory and need {needed(workers) / MIB:.0f} MiB of it; "
        f"{SHARED_MEMORY} has {free / MIB:.0f} MiB free. Give {most}--workers 0, or the container more: docker run "
        f"--shm-size {-(-2 * needed(workers) // 2**30)}g."
    )


def _free_bytes(folder: Path) -> int | None:
    """Free on the file system of a folder; None where there is no such folder, or no limit."""
    try:
        status = os.statvfs(folder)
    except (AttributeError, OSError):  # Windows has no such call
        return None
    return status.f_bavail * status.f_frsize if status.f_blocks else None


def collate(examples: list[tuple[int, Tensor | str]]) -> LoadedImages:
    """Readable images stacked, the others named."""
    read = [(index, image) for index, image in examples if isinstance(image, Tensor)]
    problems = [problem for _, problem in examples if isinstance(problem, str)]
    images = torch.stack([image for _, image in read]) if read else torch.zeros(0, dtype=torch.uint8)
    indices = torch.tensor([index for index, _ in read], dtype=torch.int64)
    if get_worker_info() is not None:
        # Where the sender's thread finds that shared memory is full, the batch is lost and waited for, for ever.
        images.share_memory_()
        indices.share_memory_()
    return LoadedImages(images, indices, problems)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one thread a worker: the workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the main one decides
    signal.signal(signal.SIGTERM, _ignore_once)


def _ignore_once(number: int, _: object) -> None:
    """A worker outlives one SIGTERM: a cluster that stops a job sends it to every process, and the main one still has a
    step to finish. PyTorch ends a worker that hangs by the same signal, and Python by another at the end."""
    signal.signal(number, signal.SIG_DFL)
