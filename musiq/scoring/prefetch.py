"""Prefetching: images decoded ahead of the model, gathered into batches of one model, and their rows put in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from musiq.images.decode import Source
from musiq.images.fit import Image
from musiq.runtimes.base import Images
from musiq.scoring.row import Row

R = TypeVar("R")

PATIENCE = 8
"""Batches of other images that one waits for more of its own shape; then it goes to the model in a smaller batch."""


@dataclass(frozen=True)
class PreparedImage:
    """An image at its model's size: uint8 (height, width, 3). `place` is its index among the sources."""

    place: int
    path: str
    image: Image
    model: int = 0
    fitted: str = ""


@dataclass(frozen=True)
class FailedImage:
    """A source that could not be read, and why."""

    place: int
    path: str
    error: str


class ImageBatch:
    """Images for one model: uint8 (N, height, width, 3) in one piece, and what else is known of each."""

    def __init__(self, items: list[PreparedImage]) -> None:
        self.model = items[0].model
        self.images: Images = np.stack([item.image for item in items])
        self.places = [item.place for item in items]
        self.paths = [item.path for item in items]
        self.fitted = [item.fitted for item in items]


def map_ahead(pool: Executor, work: Callable[[int, Source], R], sources: Iterable[Source], ahead: int) -> Iterator[R]:
    """`work(place, source)` of each source in order, at most `ahead` of them begun and not yet taken."""
    begun: deque[Future[R]] = deque()
    for place, source in enumerate(sources):
        begun.append(pool.submit(work, place, source))
        if len(begun) >= ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def in_batches(images: Iterable[PreparedImage | FailedImage], size: int) -> Iterator[ImageBatch | FailedImage]:
    """Batches of `size` images for one model each, in the order they fill; a failed image goes on at once.

    An image whose shape is rare goes on in a smaller batch after PATIENCE * size others, as all rows after it wait.
    """
    groups: dict[int, list[PreparedImage]] = {}  # by model, the oldest first
    for item in images:
        if isinstance(item, FailedImage):
            yield item
            continue
        place, model = item.place, item.model
        groups.setdefault(model, []).append(item)
        del item  # or its pixels stay in memory while the caller works
        if len(groups[model]) == size:
            yield ImageBatch(groups.pop(model))
        oldest = next(iter(groups), None)
        if oldest is not None and place - groups[oldest][0].place >= PATIENCE * size:
            yield ImageBatch(groups.pop(oldest))
    while groups:
        yield ImageBatch(groups.pop(next(iter(groups))))


def rows_in_order(
    pool: Executor,
    score: Callable[[ImageBatch], list[Row]],
    batches: Iterable[ImageBatch | FailedImage],
    in_flight: int,
    most_waiting: int,
) -> Iterator[Row]:
    """The Row of each image in the order of the sources, while batches are scored in `pool`.

    Memory is bounded from two sides. At most `in_flight` + 1 batches are with the pool: those that run, and one that
    is stacked already when a model has done with its last. And at most about `most_waiting` rows are ready whose turn
    has not come: then no further batch is begun before the oldest is done.
    """
    running: deque[tuple[list[int], Future[list[Row]]]] = deque()  # the places of a batch and its rows, oldest first
    ready = InOrder()
    for batch in batches:
        if isinstance(batch, FailedImage):
            ready.add(batch.place, Row(batch.path, None, error=batch.error))
        else:
            running.append((batch.places, pool.submit(score, batch)))
        del batch  # or its images stay in memory until the next ones are there
        while running and (running[0][1].done() or len(running) > in_flight or len(ready) > most_waiting):
            places, rows = running.popleft()
            ready.add_all(places, rows.result())
        yield from ready.take()
    for places, rows in running:
        ready.add_all(places, rows.result())
        yield from ready.take()


class InOrder:
    """Takes rows with their places, in any order; gives them by place, from 0, without a gap."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, place: int, row: Row) -> None:
        self._waiting[place] = row

    def add_all(self, places: list[int], rows: list[Row]) -> None:
        self._waiting.update(zip(places, rows, strict=True))

    def take(self) -> Iterator[Row]:
        while self._next in self._waiting:
            self._next += 1
            yield self._waiting.pop(self._next - 1)
