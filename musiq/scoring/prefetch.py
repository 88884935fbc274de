"""Prefetching: images decoded ahead of the model, gathered into batches of one model, and their rows put in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np

from musiq.images.fit import Image
from musiq.runtimes.base import Images
from musiq.scoring.parts import Part
from musiq.scoring.plan import Plan
from musiq.scoring.row import Row

PATIENCE = 8
"""Batches of other images that one waits for more of its own shape; then it goes to the model in a smaller batch."""

LOOK_AHEAD = 1024
"""Images among which those are looked for that may share a call, where they have hundreds of sizes."""

MOST_BYTES = 2**28
"""Of the pixels that may wait for their call to fill, and again of those decoded ahead, where images have any size."""


@dataclass(frozen=True)
class PreparedImage:
    """An image as its model sees it: uint8 (height, width, 3). `place` is its index among the parts of the sources; of a
    frame `moment` is its number and time."""

    place: int
    path: str
    image: Image
    plan: Plan
    fitted: str = ""
    thumbnail: bytes = b""
    moment: tuple[int, float] | None = None

    @property
    def bytes(self) -> int:
        return self.image.nbytes


@dataclass(frozen=True)
class Unscored:
    """A part that no model sees, and its row: what could not be read, and the end of a video."""

    place: int
    row: Row
    bytes: int = 0


class ImageBatch:
    """Images for one call of one model, and what else is known of each.

    Attributes:
        images: uint8 (N, height, width, 3) in one piece; where they differ in size, a list.
    """

    def __init__(self, items: list[PreparedImage]) -> None:
        self.model = items[0].plan.model
        images = [item.image for item in items]
        self.images: Images | list[Images] = images
        if len(items) == 1:
            self.images = images[0][None]  # large ones are not copied
        elif len({image.shape for image in images}) == 1:
            self.images = np.stack(images)
        self.loads = [item.plan.load for item in items]
        self.places = [item.place for item in items]
        self.paths = [item.path for item in items]
        self.fitted = [item.fitted for item in items]
        self.sizes = [f"{item.plan.width}x{item.plan.height}" for item in items]
        self.thumbnails = [item.thumbnail for item in items]
        self.moments = [item.moment or (None, None) for item in items]


@dataclass(frozen=True)
class Limits:
    """How far decoding runs ahead, and what makes a batch.

    Attributes:
        budget: The load of a batch, see `Plan`: it is full where another like its last image would exceed this.
        ahead: Images begun to decode and not yet taken.
        patience: Images after which one goes to the model in a smaller batch, as all rows after it wait; and about how many
            rows may wait for one before them.
        most_bytes: Of the pixels that are decoded and not yet taken, and of those that wait in batches; 0 for no limit
            but the others.
    """

    budget: int
    ahead: int
    patience: int
    most_bytes: int = 0


def map_ahead(
    pool: Executor,
    work: Callable[[int, Part], PreparedImage | Unscored],
    parts: Iterable[Part],
    limits: Limits,
) -> Iterator[PreparedImage | Unscored]:
    """`work(place, part)` of each part in order; none is begun while too many, or too large ones, wait to be taken."""
    begun: deque[Future[PreparedImage | Unscored]] = deque()
    for place, part in enumerate(parts):
        begun.append(pool.submit(work, place, part))
        while begun and (len(begun) >= limits.ahead or (limits.most_bytes and _held(begun) > limits.most_bytes)):
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _held(begun: Iterable[Future[PreparedImage | Unscored]]) -> int:
    """Bytes of the pixels that are there already."""
    return sum(each.result().bytes for each in begun if each.done())


def in_batches(images: Iterable[PreparedImage | Unscored], limits: Limits) -> Iterator[ImageBatch | Unscored]:
    """Batches of images that may share a call, in the order they fill; what no model sees goes on at once."""
    groups: dict[tuple[int, ...], list[PreparedImage]] = {}  # by what the images share, the oldest first
    held = 0

    def taken(shares: tuple[int, ...]) -> ImageBatch:
        nonlocal held
        group = groups.pop(shares)
        held -= sum(each.bytes for each in group)
        return ImageBatch(group)

    for item in images:
        place = item.place
        if isinstance(item, Unscored):
            yield item
        else:
            shares, load = (item.plan.model, *item.plan.shares), item.plan.load
            loads = sum(each.plan.load for each in groups.get(shares, ()))
            if loads and loads + load > limits.budget:
                yield taken(shares)
                loads = 0
            groups.setdefault(shares, []).append(item)
            held += item.bytes
            if loads + 2 * load > limits.budget:
                yield taken(shares)
        del item  # or its pixels stay in memory while the caller works
        while groups:
            oldest = next(iter(groups))
            too_large = limits.most_bytes and held > limits.most_bytes
            if place - groups[oldest][0].place < limits.patience and not too_large:
                break
            yield taken(oldest)
    while groups:
        yield taken(next(iter(groups)))


def rows_in_order(
    pool: Executor,
    score: Callable[[ImageBatch], list[Row]],
    batches: Iterable[ImageBatch | Unscored],
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
        if isinstance(batch, Unscored):
            ready.add(batch.place, batch.row)
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
