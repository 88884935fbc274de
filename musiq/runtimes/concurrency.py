"""Limits how many calls run at once, and lets none in after a runtime was closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from musiq.errors import MusiqError

T = TypeVar("T")

IN_FLIGHT = 2
"""Calls at once on a GPU: while one batch computes, the next is copied there. A third would only wait, and hold memory."""


def not_closed(thing: T | None) -> T:
    """What a runtime works with. Raises MusiqError where close() took it away."""
    if thing is None:
        raise MusiqError("This model was closed. Open it again with musiq.load.")
    return thing


class Pool(Generic[T]):
    """What one call needs to itself, such as a stream, a few times over: each call takes one, and waits while none is
    free."""

    def __init__(self, members: Sequence[T]) -> None:
        self._free = list(members)
        self._busy = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[T]:
        """A member until the end of the block. Raises MusiqError once the pool is closed, to who waits for one too."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            member = not_closed(None if self._closed else self._free.pop())
            self._busy += 1
        try:
            yield member
        finally:
            with self._changed:
                self._free.append(member)
                self._busy -= 1
                self._changed.notify_all()

    def close(self) -> list[T]:
        """Let no call in any more, wait for those that run, and hand the members over for freeing: once, then none."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy)
            members, self._free = self._free, []
            return members
