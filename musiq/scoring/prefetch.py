"""The order of things in `Scorer.score_many`: decoded ahead, gathered into batches of one model, given back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Generic, NamedTuple, TypeVar

from musiq.images.decode import Source
from musiq.images.fit import Image

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 8
"""Batches of other images that one waits for more of its own shape; then it goes to the model in a smaller batch."""


class Ready(NamedTuple):
    """A decoded image and its place among the sources; `image` is None where `error` says why."""

    place: int
    path: str
    model: int = 0
    image: Image | None = None
    fitted: str = ""
    error: str = ""


def map_ahead(pool: Executor, work: Callable[[int, Source], R], sources: Iterable[Source], ahead: int) -> Iterator[R]:
    """`work(place, source)` of each source in order, at most `ahead` of them begun and not yet taken."""
    begun: deque[Future[R]] = deque()
    for place, source in enumerate(sources):
        begun.append(pool.submit(work, place, source))
        if len(begun) >= ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def batches(ready: Iterable[Ready], size: int) -> Iterator[list[Ready]]:
    """Lists of `size` images for one model each, in the order they fill; a failed image is one alone, at once.

    An image whose shape is rare goes on in a smaller batch after PATIENCE * size others, as all rows after it wait.
    """
    groups: dict[int, list[Ready]] = {}  # the oldest first
    for item in ready:
        if item.image is None:
            yield [item]
            continue
        group = groups.setdefault(item.model, [])
        group.append(item)
        if len(group) == size:
            yield groups.pop(item.model)
        oldest = next(iter(groups), None)
        if oldest is not None and item.place - groups[oldest][0].place >= PATIENCE * size:
            yield groups.pop(oldest)
    yield from groups.values()


class InOrder(Generic[T]):
    """Takes things with their places, in any order; gives them by place, from 0, without a gap."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, place: int, thing: T) -> None:
        self._waiting[place] = thing

    def take(self) -> Iterator[T]:
        while self._next in self._waiting:
            self._next += 1
            yield self._waiting.pop(self._next - 1)
